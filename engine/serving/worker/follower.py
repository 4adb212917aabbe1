"""A rank other than the first: it is told what the first is told, decides the same, and computes
its part."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import NoReturn

from collectors.recorder import NullRecorder
from engine.scheduling.registry import Knowledge, make_policy
from engine.serving.channel import Channel
from engine.serving.sampling.sampler import choose
from engine.serving.worker.calibration import measure
from engine.serving.worker.engine import Engine
from engine.serving.worker.group import TO_FOLLOWER, Chose, Enter, Terms, ToFollower, Told
from engine.serving.worker.process import outlast_signals
from engine.serving.worker.rank import open_rank


def main() -> None:
    """Until the first rank is gone."""
    outlast_signals()
    channel = Channel(socket.socket(fileno=os.dup(0)), TO_FOLLOWER)
    with contextlib.suppress(EOFError, ConnectionError):
        _follow(channel)


def _follow(channel: Channel[ToFollower]) -> NoReturn:
    enter = channel.receive_one()
    assert isinstance(enter, Enter), "the first message"
    rank = open_rank(enter.start, rank=enter.rank, meeting=Path(enter.meeting))
    terms = _terms(channel)
    limits = terms.limits
    runner = rank.runner(limits, enter.salt)
    if terms.plan is not None:
        measure(runner, terms.plan)
    latency = _terms(channel).latency
    assert latency is not None, "it was measured"
    policy = make_policy(rank.config.policy, Knowledge(profile=latency))
    engine = Engine(policy, limits, runner.cache, NullRecorder())
    chooses = rank.config.pp > 1 and enter.rank == rank.config.ranks - rank.config.tp
    while True:
        told = channel.receive_one()
        assert isinstance(told, Told), "nothing else is left to say"
        _, iteration = engine.step(told.tick)
        runner.cache.move(iteration)
        scores = runner.compute(iteration.work, engine.texts(iteration.work))
        if chooses and iteration.work:
            candidates = engine.candidates(iteration.work)
            channel.send(Chose(chosen=tuple(choose(scores, candidates) if candidates else ())))


def _terms(channel: Channel[ToFollower]) -> Terms:
    terms = channel.receive_one()
    assert isinstance(terms, Terms), "as the first rank has it"
    return terms


if __name__ == "__main__":
    main()
