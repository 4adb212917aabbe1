"""Half of the devices compute prompts, the other half answers (DistServe, arXiv 2401.09670).

A request's keys and values pass over the link once, when its prompt is done. In favour of it, three
things cost nothing here: prompts give up their room when they are done, also where the other half
has none yet; transfers do not wait for each other; and what an answer lost for want of room is
there again without computing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from engine.simulation.fleet.engines import make_engine, run_engine
from engine.simulation.serve.life import Life, Outcome
from engine.simulation.serve.request import Request, Workload

if TYPE_CHECKING:
    from engine.profiles.latency import Latency
    from engine.simulation.fleet.engines import Order
    from engine.simulation.fleet.set_up import FleetSetUp


@dataclass(frozen=True, slots=True, kw_only=True)
class Halves:
    """How each half is one engine.

    Attributes:
        prefill, decode: as sequence parallel instances, else as one tensor parallel instance.
    """

    prefill_in_instances: bool
    decode_in_instances: bool

    def latencies(self, set_up: FleetSetUp) -> tuple[Latency, Latency]:
        """Of prefills, and of decodes."""
        return (
            _half(set_up, in_instances=self.prefill_in_instances),
            _half(set_up, in_instances=self.decode_in_instances),
        )


def simulate_disaggregated(
    set_up: FleetSetUp, workload: Workload, *, halves: Halves, order: Order, chunk: int | None
) -> Outcome:
    """Every request fits into half of the instances."""
    prefill, decode = halves.latencies(set_up)
    half = set_up.instances // 2
    make = partial(make_engine, set_up, instances=half)
    first = run_engine(partial(make, prefill, _prompts(workload), order=order, chunk=chunk))
    ready = _ready(set_up, workload, first)
    second = run_engine(partial(make, decode, _answers(workload, ready), computed=True))
    lives = [_life(each, life) for each, life in zip(workload.requests, first.lives, strict=True)]
    for (_, number), life in zip(ready, second.lives, strict=True):
        lives[number].last_s = life.last_s
    return Outcome(
        policy="disaggregated",
        lives=lives,
        end_s=max(first.end_s, second.end_s),
        iterations=first.iterations + second.iterations,
        busy_s=(first.busy_s + second.busy_s) / 2,
        waited_s=0.0,
        swapped_bytes=0,
    )


def _half(set_up: FleetSetUp, *, in_instances: bool) -> Latency:
    if in_instances:
        return set_up.base.latency(set_up.instances // 2)
    return set_up.split(1, set_up.devices // 2)


def _prompts(workload: Workload) -> Workload:
    """Each to its first token."""
    return replace(
        workload, requests=tuple(_with(each, output_tokens=1) for each in workload.requests)
    )


def _ready(set_up: FleetSetUp, workload: Workload, first: Outcome) -> list[tuple[float, int]]:
    """When whose keys and values have come to the other half, of those with more than one token."""
    found = []
    for number, (request, life) in enumerate(zip(workload.requests, first.lives, strict=True)):
        if request.output_tokens > 1:
            assert life.last_s is not None
            found.append((life.last_s + set_up.base.transfer_s(request.prompt_tokens), number))
    return sorted(found)


def _answers(workload: Workload, ready: list[tuple[float, int]]) -> Workload:
    """All but the first token, which is known."""
    requests = [(time, workload.requests[number]) for time, number in ready]
    return replace(
        workload,
        requests=tuple(
            Request(
                arrival_s=time,
                prompt_tokens=each.prompt_tokens + 1,
                output_tokens=each.output_tokens - 1,
            )
            for time, each in requests
        ),
    )


def _with(request: Request, *, output_tokens: int) -> Request:
    return Request(
        arrival_s=request.arrival_s,
        prompt_tokens=request.prompt_tokens,
        output_tokens=output_tokens,
    )


def _life(request: Request, prefill: Life) -> Life:
    return Life(
        request=request,
        first_s=prefill.first_s,
        last_s=prefill.last_s,
        finished=True,
        computed=prefill.computed,
        recomputed=prefill.recomputed,
    )
