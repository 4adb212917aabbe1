"""What a live server's iterations cost, from the beginning of one to that of the next.

A profile has the model's pass alone. A server also hears of requests, decides, and sends tokens on;
with a small model on a CPU that is a quarter of an iteration. So known work is sent through the
whole server, and the times are those that it records. What a client waits beyond is told apart.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median
from time import time_ns
from typing import TYPE_CHECKING

from collectors.errors import RunFailed
from opsuite.bench.serving.iterations import iterations

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.profiles.latency import Latency
    from engine.simulation.serve.request import Workload
    from opsuite.bench.serving.iterations import Spent
    from opsuite.bench.serving.live import LiveServer
    from opsuite.serving_load.open_loop import Replay

_REPEATS = 2
_PATIENCE_S = 120.0
_BATCHES, _CONTEXTS, _DECODED = (1, 2, 4), (24, 200, 700), 64
_PROMPTS = (16, 64, 192, 448)
_ALONE, _ALONE_OUTPUT = 4, 2  # times, and tokens
_FOLLOWING = 8  # prompts, one after the other, beside decodes
_BESIDE, _BESIDE_OUTPUT, _BESIDE_S = 8, 120, 0.1  # tokens of the decodes; seconds until they run


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Known work, and the iterations of it that count.

    Attributes:
        kind: as the server records them: decode, prefill or mixed.
        running: sequences in each of them.
        tokens: of each context, or of the one prompt.
    """

    kind: str
    running: int
    tokens: int
    workload: Workload


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Medians, in seconds.

    Attributes:
        decodes: (batch, context tokens of all, seconds).
        prefills: of one prompt alone (length, seconds).
        mixed: (length, seconds of the decodes beside it alone, seconds).
        outside_s: what a client of a prompt alone waits beyond its iterations: HTTP, both ways.
    """

    decodes: list[tuple[int, int, float]] = field(default_factory=list)
    prefills: list[tuple[int, float]] = field(default_factory=list)
    mixed: list[tuple[int, float, float]] = field(default_factory=list)
    outside_s: float = 0.0

    def latency(self) -> Latency:
        """Their terms."""
        from engine.profiles.latency_fit import fit_latency, fit_mixed

        plain = fit_latency([((length,), each) for length, each in self.prefills], self.decodes)
        return fit_mixed(plain.latency, self.prefills, self.mixed)


def calibrate(server: LiveServer, *, max_batch: int, seed: int) -> Costs:
    """Of a server that has nothing else to do, runs first come first served, and records its run.

    Probes take turns, so that a slow moment of the machine harms each once.

    Raises:
        RunFailed: it did not answer, or has recorded nothing of a probe.
    """
    turns = [probe for _ in range(_REPEATS) for probe in _probes(max_batch)]
    random.Random(seed).shuffle(turns)  # noqa: S311 - no secret
    windows = []
    for number, probe in enumerate(turns):
        begun_ns = time_ns()
        replay = asyncio.run(_send(server, probe.workload, seed=seed * 1000 + number))
        windows.append((probe, begun_ns, time_ns(), replay))
    spent = iterations(server, windows[0][1], windows[-1][2])
    found: dict[tuple[str, int, int], list[tuple[float, float]]] = defaultdict(list)
    outside: list[float] = []
    for probe, begun_ns, ended_ns, replay in windows:
        own = [each for each in spent if begun_ns <= each.at_ns < ended_ns]
        found[probe.kind, probe.running, probe.tokens] += _measured(probe, own)
        if probe.kind == "prefill" and len(own) == _ALONE_OUTPUT:
            outside.append(_jct(replay) - sum(each.seconds for each in own))
    return _costs(found, median(outside))


def _probes(max_batch: int) -> list[Probe]:
    from engine.simulation.serve.request import Request, Workload

    def request(arrival_s: float, prompt: int, output: int) -> Request:
        return Request(arrival_s=arrival_s, prompt_tokens=prompt, output_tokens=output)

    def probe(kind: str, running: int, tokens: int, requests: Iterable[Request]) -> Probe:
        made = Workload(name=f"{kind} {tokens}", requests=tuple(requests))
        return Probe(kind=kind, running=running, tokens=tokens, workload=made)

    decodes = [
        probe("decode", batch, context, [request(0.0, context, _DECODED)] * batch)
        for batch in sorted({min(each, max_batch) for each in _BATCHES})
        for context in _CONTEXTS
    ]
    alone = [probe("prefill", 1, n, [request(0.0, n, _ALONE_OUTPUT)]) for n in _PROMPTS] * _ALONE
    beside = [request(0.0, _BESIDE, _BESIDE_OUTPUT)] * (max_batch - 1)
    mixed = [
        probe("mixed", max_batch, n, [*beside, *[request(_BESIDE_S, n, 1)] * _FOLLOWING])
        for n in _PROMPTS
    ]
    return [*decodes, *alone, *mixed]


async def _send(server: LiveServer, workload: Workload, *, seed: int) -> Replay:
    """From this process: no time that counts is the client's."""
    from opsuite.serving_load.client import CompletionClient
    from opsuite.serving_load.open_loop import send
    from opsuite.serving_load.prompts import ask_workload

    questions = ask_workload(workload, seed=seed, tokens=server.served.takes_tokens)
    async with CompletionClient(server.url) as client:
        replay = await send(client, server.served, questions, patience_s=_PATIENCE_S)
    for answer in replay.answers:
        if answer.problem:
            raise RunFailed(f"a probe failed: {answer.problem}", where=server.url)
    return replay


def _jct(replay: Replay) -> float:
    """Of the one request."""
    (answer,) = replay.answers
    return answer.token_s[-1] - answer.sent_s


def _measured(probe: Probe, spent: Sequence[Spent]) -> list[tuple[float, float]]:
    """Seconds of its iterations, and of the decodes beside its prompts alone (0.0 of others);
    nothing where its requests have not met."""

    def of(kind: str, running: int) -> list[float]:
        return [each.seconds for each in spent if (each.kind, each.running) == (kind, running)]

    found = of(probe.kind, probe.running)
    beside = of("decode", probe.running - 1) if probe.kind == "mixed" else [0.0]
    return [(median(found), median(beside))] if found and beside else []


def _costs(found: dict[tuple[str, int, int], list[tuple[float, float]]], outside_s: float) -> Costs:
    costs = Costs(outside_s=outside_s)
    for (kind, running, tokens), pairs in sorted(found.items()):
        if not pairs:
            raise RunFailed(f"the server has recorded no {kind} of {running} sequences")
        seconds, beside = (median(each) for each in zip(*pairs, strict=True))
        if kind == "decode":
            costs.decodes.append((running, running * (tokens + _DECODED // 2), seconds))
        elif kind == "prefill":
            costs.prefills.append((tokens, seconds))
        else:
            costs.mixed.append((tokens, beside, seconds))
    return costs
