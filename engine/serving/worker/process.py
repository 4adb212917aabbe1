"""The engine's process: told what to serve, then one iteration after another.

Started by the API's process with its end of a socket pair as standard input; it ends when the other
end is gone. Signals of a terminal or of a service manager are the API's business.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from collectors.clock import host_name
from collectors.errors import OpsuiteError, UsageError
from collectors.recorder import Identity, NullRecorder, Recorder, open_recorder
from engine.lifeline import end_with_parent
from engine.profiles.latency_fit import fit_latency
from engine.profiles.profile import read_profile
from engine.scheduling.registry import Knowledge, make_policy
from engine.serving.channel import Channel
from engine.serving.config import ServingConfig
from engine.serving.fleet.process import serve_fleet
from engine.serving.wire import TO_ENGINE, Ready, Refusal, Start, ToEngine
from engine.serving.worker.calibration import brief_plan, measure
from engine.serving.worker.engine import Engine
from engine.serving.worker.first_rank import first_rank
from engine.serving.worker.group import Terms
from engine.serving.worker.loop import Loop

if TYPE_CHECKING:
    from engine.profiles.latency import Latency
    from engine.profiles.profile import Profile
    from engine.scheduling.limits import Limits
    from engine.serving.paged.runner import PagedRunner
    from engine.serving.worker.calibration import Plan
    from engine.serving.worker.first_rank import FirstRank
    from engine.serving.worker.rank import Rank

_log = logging.getLogger(__name__)


def main() -> None:
    """Until the API's process is gone, or the model cannot be served."""
    outlast_signals()
    channel = Channel(socket.socket(fileno=os.dup(0)), TO_ENGINE)
    try:
        _serve(channel)
    except OpsuiteError as error:
        channel.send(Refusal.of(error))
    except (EOFError, ConnectionError):
        _log.debug("the other end is gone")


def outlast_signals() -> None:
    """End with the process that started this one, and not before it by a signal to all."""
    end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _serve(channel: Channel[ToEngine]) -> NoReturn:
    start = channel.receive_one()
    assert isinstance(start, Start), "the first message"
    config = ServingConfig.model_validate_json(start.config)
    if config.elastic:
        with closing(_recorder(start)) as recorder:
            serve_fleet(start, config, channel, recorder)

    def plan_of(limits: Limits, max_len: int) -> Plan | None:
        return None if config.profile else brief_plan(limits, max_len=max_len)

    with first_rank(start, config, plan_of) as first:
        latency = _latency(first.rank, first.runner, first.plan)
        if first.followers:
            first.followers.agree(Terms(limits=first.limits, latency=latency))
        with closing(_recorder(start)) as recorder:
            _compute(first, latency, channel, recorder)


def _compute(
    first: FirstRank, latency: Latency, channel: Channel[ToEngine], recorder: Recorder
) -> NoReturn:
    config, cache = first.rank.config, first.runner.cache
    policy = make_policy(config.policy, Knowledge(profile=latency))
    engine = Engine(policy, first.limits, cache, recorder)
    kv_tokens = first.limits.blocks * cache.block_tokens
    recorder.event("engine.ready", value=kv_tokens, attributes={"policy": policy.name})
    ready = Ready(kv_tokens=kv_tokens, block_tokens=cache.block_tokens, policy=policy.name)
    channel.send(ready)
    Loop(engine, first.runner, channel, recorder, followers=first.followers, stages=config.pp).run()


def _latency(rank: Rank, runner: PagedRunner, plan: Plan | None) -> Latency:
    """As it is measured now, or as the profile says."""
    if plan is None:
        assert rank.config.profile, "without a plan there is a profile"
        profile = read_profile(Path(rank.config.profile))
        _check_is_of(profile, rank)
        return profile.find(op=rank.config.tp, pp=rank.config.pp).fit().latency
    prefills, decodes = measure(runner, plan)
    return fit_latency(
        [(each.lengths, each.seconds) for each in prefills],
        [(each.batch, each.context_tokens, each.seconds) for each in decodes],
    ).latency


def _check_is_of(profile: Profile, rank: Rank) -> None:
    """UsageError: it is of another model, or of other numbers."""
    expected = rank.model.config.kv_values * rank.dtype.itemsize
    if profile.kv_bytes_per_token != expected:
        raise UsageError(
            f"it is of {profile.model}, with {profile.kv_bytes_per_token} bytes of keys and values"
            f" a token; this model has {expected}",
            where=str(rank.config.profile),
            remedy="measure this model: opsuite profile MODEL --out FILE",
        )


def _recorder(start: Start) -> Recorder:
    if not start.spool:
        return NullRecorder()
    identity = Identity(
        run_id=start.run_id,
        role="server",
        rank=0,
        world_size=1,
        host=host_name(),
        coordinates={},
    )
    return open_recorder(Path(start.spool), identity)


if __name__ == "__main__":
    main()
