"""Runs of slots as attention reads them: long ones where they lie, short ones copied together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from engine.serving.instances.step import Run

_LONG = 64  # tokens of a run that attention reads by itself


class Piece(Protocol):
    """Some tokens of one text in one layer's keys or values.

    Attributes:
        tokens: how many.
    """

    tokens: int

    def of(self, stored: Tensor) -> Tensor:
        """Out of [1, Hkv, slots, Dh]: [1, Hkv, tokens, Dh]."""
        ...

    def places(self) -> list[int]:
        """Where each stands in the text."""
        ...


def pieces(runs: Sequence[Run], device: torch.device) -> list[Piece]:
    """All of them, in no particular order: softmax does not mind."""
    if len(runs) == 1:
        return [_View(runs)]
    found: list[Piece] = []
    short: list[Run] = []
    for neighbours in _joined(runs):
        if sum(run.tokens for run in neighbours) >= _LONG:
            found.append(_View(neighbours))
        else:
            short += neighbours
    if short:
        found.append(_Gathered(short, device) if len(short) > 1 else _View(short))
    return found


def together(runs: Sequence[Run]) -> Run | None:
    """One run of all, where their slots are neighbours."""
    first, slot, tokens = runs[0], runs[0].slot, 0
    for run in runs:
        if run.slot != slot + tokens:
            return None
        tokens += run.tokens
    return type(first)(first.instance, slot, first.first, tokens)


def clipped(runs: Iterable[Run], first: int) -> tuple[Run, ...]:
    """What they have from a place of the text on."""
    return tuple(_behind(run, first) for run in runs if run.end > first)


def _behind(run: Run, first: int) -> Run:
    less = first - run.first
    if less <= 0:
        return run
    return type(run)(run.instance, run.slot + less, first, run.tokens - less)


def _joined(runs: Sequence[Run]) -> Iterable[list[Run]]:
    """Those whose slots are neighbours, together."""
    group = list(runs[:1])
    for run in runs[1:]:
        if run.slot == group[-1].slot + group[-1].tokens:
            group.append(run)
        else:
            yield group
            group = [run]
    if group:
        yield group


class _View:
    """Runs whose slots are neighbours: nothing is copied."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.tokens = sum(run.tokens for run in runs)
        self._slot = runs[0].slot
        self._runs = runs

    def of(self, stored: Tensor) -> Tensor:
        return stored.narrow(2, self._slot, self.tokens)

    def places(self) -> list[int]:
        return _places(self._runs)


class _Gathered:
    """Scattered runs."""

    def __init__(self, runs: Sequence[Run], device: torch.device) -> None:
        self.tokens = sum(run.tokens for run in runs)
        self._runs = runs
        slots = [slot for run in runs for slot in range(run.slot, run.slot + run.tokens)]
        self._slots = torch.tensor(slots, device=device)

    def of(self, stored: Tensor) -> Tensor:
        return stored.index_select(2, self._slots)

    def places(self) -> list[int]:
        return _places(self._runs)


def _places(runs: Iterable[Run]) -> list[int]:
    return [place for run in runs for place in range(run.first, run.end)]
