"""Which part of a model one stage of a pipeline holds."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, kw_only=True)
class Part:
    """Consecutive layers, with what comes before the first and after the last of the model.

    Attributes:
        layers: their numbers in the whole model.
        first: whether the embedding belongs to it.
        last: whether the final norm and the output matrix do.
    """

    layers: range
    first: bool = True
    last: bool = True


def whole(n_layers: int) -> Part:
    """All of a model."""
    return Part(layers=range(n_layers))


def partition(n_layers: int, stages: int, *, head_layers: float = 0.0) -> list[Part]:
    """Cut a model into ``stages`` whose work is as even as whole layers allow.

    Args:
        head_layers: what the output matrix and the loss cost, in layers; the last stage does it.

    Raises:
        ValueError: there are fewer layers than stages.
    """
    if stages > n_layers:
        raise ValueError(f"{n_layers} layers cannot be cut into {stages} stages")
    ends = [0]
    for stage in range(1, stages):
        even = (n_layers + head_layers) * stage / stages
        ends.append(min(max(round(even), ends[-1] + 1), n_layers - (stages - stage)))
    ends.append(n_layers)
    return [
        Part(layers=range(first, end), first=stage == 0, last=stage == stages - 1)
        for stage, (first, end) in enumerate(pairwise(ends))
    ]
