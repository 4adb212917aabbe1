"""Wrong numbers on the way through the model: bad data, or one rank that computes wrongly.

Hooks of torch's are there in the step concerned only, and change tensors, not the modules: the
other steps compute, to the bit, what they would have.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from engine.faults.bits import flip_bit, place_of, top_exponent_bit
from engine.faults.keys import key, one_step, whole_number
from engine.faults.marker import Marker
from engine.faults.rank_fault import RankFault, StepFault, misfit_of_step

if TYPE_CHECKING:
    import torch
    from torch.utils.hooks import RemovableHandle

    from engine.faults.place import Place

_EMBEDDING = "embed_tokens"  # Hugging Face's name
_LAYERS = "layers"  # too


class _Poison(RankFault, ABC):
    """Changes what a module of this rank makes, or the gradient of that."""

    step: int

    @abstractmethod
    def target(self, place: Place) -> torch.nn.Module | None:
        """The module, if this rank has one."""

    @abstractmethod
    def poisoned(self, output: torch.Tensor) -> torch.Tensor:
        """What ``output`` becomes."""

    def out_of_place(self, place: Place) -> str:
        return "" if self.target(place) is not None else "this rank holds no such part of the model"

    def hook(self, place: Place) -> PoisonedStep:
        target = self.target(place)
        assert target is not None
        return PoisonedStep(self, place, target)


@dataclass(frozen=True, kw_only=True)
class NanBatch(_Poison):
    """What the model makes of one step's batch is NaN, on every rank that holds its first part."""

    name: ClassVar[str] = "nan-batch"

    step: int = key("the step in which it strikes", one_step)

    def misfit(self, *, world_size: int, steps: int) -> str:
        return misfit_of_step(self.step, steps)

    def concerns(self, place: Place) -> bool:
        return self.target(place) is not None

    def marker(self, place: Place) -> Marker:
        """Each rank's own: they strike together."""
        return Marker(place.markers, f"{place.index}.rank{place.rank}")

    def target(self, place: Place) -> torch.nn.Module | None:
        return _part_named(place, _EMBEDDING)

    def poisoned(self, output: torch.Tensor) -> torch.Tensor:
        return _not_a_number(output)


@dataclass(frozen=True, kw_only=True)
class NanRank(StepFault, _Poison):
    """One rank's own gradient is NaN, before it is reduced with the other replicas'."""

    name: ClassVar[str] = "nan-rank"

    def target(self, place: Place) -> torch.nn.Module | None:
        return _first_layer(place)

    def poisoned(self, output: torch.Tensor) -> torch.Tensor:
        output.register_hook(_not_a_number)  # type: ignore[no-untyped-call]
        return output


@dataclass(frozen=True, kw_only=True)
class GradientFlip(StepFault, _Poison):
    """The top exponent bit of one number in one rank's gradient flips, before it is reduced."""

    name: ClassVar[str] = "gradient-flip"

    seed: int = key("what chooses the number", whole_number, default=0)

    def target(self, place: Place) -> torch.nn.Module | None:
        return _first_layer(place)

    def poisoned(self, output: torch.Tensor) -> torch.Tensor:
        output.register_hook(self._flipped)  # type: ignore[no-untyped-call]
        return output

    def _flipped(self, gradient: torch.Tensor) -> torch.Tensor:
        """Of a copy: autograd may give the same tensor to others."""
        flipped = gradient.clone()
        chance = random.Random(self.seed)  # noqa: S311 - no secret
        number = chance.randrange(flipped.numel())
        flip_bit(flipped, place_of(flipped, number), top_exponent_bit(flipped.dtype))
        return flipped


class PoisonedStep:
    """:class:`~engine.step_hook.StepHook`: the poison, in the first micro-batch of its step."""

    def __init__(self, fault: _Poison, place: Place, target: torch.nn.Module) -> None:
        self._fault = fault
        self._place = place
        self._target = target
        self._handle: RemovableHandle | None = None
        self._micro_batches = 0

    def on_step_begin(self, step: int) -> None:
        self.close()  # of a step that did not come to its end
        if step == self._fault.step and self._fault.marker(self._place).claim():
            self._micro_batches = 0
            self._handle = self._target.register_forward_hook(self._on_forward)
            self._fault.record(self._place, "fault.begin", step)

    def on_step_end(self, step: int) -> None:
        if self._handle is not None:
            self.close()
            self._fault.record(self._place, "fault.end", step)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _on_forward(self, module: object, inputs: object, output: Any) -> Any:  # noqa: ANN401
        self._micro_batches += 1
        return self._fault.poisoned(output) if self._micro_batches == 1 else output


def _part_named(place: Place, name: str) -> torch.nn.Module | None:
    modules: dict[str, torch.nn.Module] = {}
    for part in reversed(place.modules):  # the first part has the last word
        modules.update((path.rpartition(".")[2], module) for path, module in part.named_modules())
    return modules.get(name)


def _first_layer(place: Place) -> torch.nn.Module | None:
    layers = _part_named(place, _LAYERS)
    return None if layers is None else next(layers.children(), None)


def _not_a_number(tensor: torch.Tensor) -> torch.Tensor:
    """A product, so that autograd knows where it came from."""
    return tensor * float("nan")
