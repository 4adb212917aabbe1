"""A server's engine in this process, driven by its own loop."""

from __future__ import annotations

import socket
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from collectors.recorder import NullRecorder
from engine.profiles.latency_fit import fit_latency
from engine.scheduling.registry import Knowledge, make_policy
from engine.serving.channel import Channel, framed
from engine.serving.config import ServingConfig
from engine.serving.request import GenerationRequest
from engine.serving.sampling.parameters import SamplingParameters
from engine.serving.wire import TO_ENGINE, Join, Progress, Start, ToEngine
from engine.serving.worker.calibration import brief_plan, measure
from engine.serving.worker.engine import Engine
from engine.serving.worker.loop import Loop
from engine.serving.worker.rank import open_rank

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_GREEDY = SamplingParameters(temperature=0)


class EngineAlone:
    """Of a model directory, on one CPU thread."""

    def __init__(self, directory: Path, *, max_batch: int, max_len: int) -> None:
        config = ServingConfig(
            device="cpu", threads=1, max_batch=max_batch, max_len=max_len, swap_gb=0
        )
        rank = open_rank(Start(directory=str(directory), config=config.model_dump_json()))
        limits = rank.limits()
        self._runner = rank.runner(limits, b"")
        prefills, decodes = measure(self._runner, brief_plan(limits, max_len=max_len))
        latency = fit_latency(
            [(each.lengths, each.seconds) for each in prefills],
            [(each.batch, each.context_tokens, each.seconds) for each in decodes],
        ).latency
        policy = make_policy(config.policy, Knowledge(profile=latency))
        self._engine = Engine(policy, limits, self._runner.cache, NullRecorder())
        self._numbers = 0

    def generate(
        self, prompts: Sequence[Sequence[int]], lengths: Sequence[int]
    ) -> tuple[float, list[list[int]]]:
        """Seconds, and so many tokens of each prompt. No prompt is known from before."""
        self._runner.cache.forget_prefixes()
        requests = [self._request(*each) for each in zip(prompts, lengths, strict=True)]
        with closing(_Client(requests)) as client:
            start = time.perf_counter()
            with suppress(EOFError):  # the client has left
                Loop(self._engine, self._runner, client, NullRecorder()).run()
            seconds = time.perf_counter() - start
        return seconds, [client.given[each.number] for each in requests]

    def _request(self, prompt: Sequence[int], length: int) -> GenerationRequest:
        self._numbers += 1
        return GenerationRequest(
            number=self._numbers,
            id="",
            prompt=tuple(prompt),
            max_tokens=length,
            parameters=_GREEDY,
        )


class _Client(Channel[ToEngine]):
    """Asks for all at once, and leaves when it has all; what it is given goes through no socket."""

    def __init__(self, requests: Sequence[GenerationRequest]) -> None:
        self._asking, engine_side = socket.socketpair()
        super().__init__(engine_side, TO_ENGINE)
        self._asking.sendall(framed(Join(tuple(requests))))
        self._open = {request.number for request in requests}
        self.given: dict[int, list[int]] = {number: [] for number in self._open}

    def send(self, message: Any) -> None:  # noqa: ANN401 - as its base has it
        assert isinstance(message, Progress), "nothing else comes once it is ready"
        for token in message.tokens:
            self.given[token.number].append(token.token)
            if token.finish:
                self._open.discard(token.number)
        if not self._open:
            self._asking.close()
