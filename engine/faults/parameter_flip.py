"""A bit that flips in a rank's memory, where a parameter lies."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.faults.bits import flip_bit, place_of
from engine.faults.keys import between, key, whole_number
from engine.faults.rank_fault import StepFault

if TYPE_CHECKING:
    import torch

    from engine.faults.place import Place


@dataclass(frozen=True, kw_only=True)
class ParameterFlip(StepFault):
    """After a step's update, one bit of one number in one rank's part of a parameter flips."""

    name: ClassVar[str] = "parameter-flip"

    bit: int = key("which, from 0, the least, to 31, the sign", between(0, 31))
    seed: int = key("what chooses the number", whole_number, default=0)

    def out_of_place(self, place: Place) -> str:
        # Copies in another precision are made anew of their originals in every step.
        return "" if _parameters(place) else "this rank's parameters are no float32 numbers"

    def hook(self, place: Place) -> FlippedParameter:
        return FlippedParameter(self, place)


class FlippedParameter:
    """:class:`~engine.step_hook.StepHook` that flips when its step has ended."""

    def __init__(self, fault: ParameterFlip, place: Place) -> None:
        self._fault = fault
        self._place = place

    def on_step_begin(self, step: int) -> None:
        """Nothing: the step is as it should be."""

    def on_step_end(self, step: int) -> None:
        if step != self._fault.step or not self._fault.marker(self._place).claim():
            return
        name, indices = self._flip()
        truth = {"parameter": name, "indices": list(indices)}
        self._fault.record(self._place, "fault.begin", step, **truth)

    def close(self) -> None:
        """Nothing: what has flipped stays so."""

    def _flip(self) -> tuple[str, tuple[int, ...]]:
        parameters = _parameters(self._place)
        chance = random.Random(self._fault.seed)  # noqa: S311 - no secret
        number = chance.randrange(sum(p.numel() for _, p in parameters))
        for name, parameter in parameters:
            if number < parameter.numel():
                indices = place_of(parameter, number)
                flip_bit(parameter, indices, self._fault.bit)
                return name, indices
            number -= parameter.numel()
        raise AssertionError("the number lies within the parameters")


def _parameters(place: Place) -> list[tuple[str, torch.Tensor]]:
    """This rank's parts, in their own memory; data parallelism has made them DTensors."""
    import torch
    from torch.distributed.tensor import DTensor

    named = [pair for part in place.modules for pair in part.named_parameters()]
    local = [(name, p.to_local() if isinstance(p, DTensor) else p) for name, p in named]
    return [(n, p.detach()) for n, p in local if p.dtype == torch.float32 and p.numel()]
