"""One model of all ways to split a model over devices, fitted to those that were measured.

Terms are seconds of one device, so that they say what a split that nobody measured takes. With
``sp`` instances of ``tp`` devices each:

- a token of a prefill: ``compute / (sp tp)``, its all-reduces ``2 (tp - 1) / tp all_reduce / sp``,
  and its keys and values on their way round the ring, ``(sp - 1) / sp ring / tp``;
- a token squared (attention): ``attention / (sp tp)`` times ``1 + stripes (sp - 1) / sp``: what is
  computed against others' stripes is done in smaller pieces, and merged;
- a token of context in a decode, and a sequence: shared by all devices;
- an iteration: ``constant + exchange (sp - 1) / sp``. Prefills and decodes have the same, since
  both launch the same kernels and read the same weights; no measured prefill is so short that it
  could tell.

What comes out agrees with the hardware: all-reduces take 4.7 us and the ring 5.4 us for half a
megabyte, so that a GPU's link carries 111 and 97 GB/s of its 200; one GPU computes a token in
55 us, which is 79 % of its peak; a token of context takes 0.31 us, which is 1.7 TB/s of its 2.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.profiles.latency import Latency, latency_of
from engine.profiles.non_negative import non_negative

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.simulation.fleet.measured import Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceModel:
    """Seconds of one device; see above."""

    compute: float
    all_reduce: float
    ring: float
    attention: float
    stripes: float
    constant: float
    exchange: float
    context: float
    sequence: float

    def latency(self, sp: int, tp: int) -> Latency:
        """Of one engine that is split so."""
        constant = self.constant + self.exchange * (sp - 1) / sp
        token = (self.compute, self.all_reduce, self.ring)
        square = (self.attention, self.stripes)
        devices = sp * tp
        return latency_of(
            (constant, _sum(token, _token(sp, tp)), _sum(square, _square(sp, tp))),
            (constant, self.context / devices, self.sequence / devices),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """How far the model is off a measured cell: fitted over measured, less 1."""

    cell: Cell
    prefill: float
    decode: float


def fit_devices(cells: Sequence[Cell]) -> DeviceModel:
    """By the least squares of relative errors, no term below 0."""
    constant, exchange, context, sequence = _fit(
        [(1.0, (cell.sp - 1) / cell.sp, *_decode(cell)) for cell in cells],
        [cell.decode_s for cell in cells],
        [cell.decode_s for cell in cells],
    )
    launched = [constant + exchange * (cell.sp - 1) / cell.sp for cell in cells]
    compute, all_reduce, ring, attention, stripes = _fit(
        [_prefill(cell) for cell in cells],
        [cell.prefill_s - each for cell, each in zip(cells, launched, strict=True)],
        [cell.prefill_s for cell in cells],
    )
    return DeviceModel(
        compute=compute,
        all_reduce=all_reduce,
        ring=ring,
        attention=attention,
        stripes=stripes,
        constant=constant,
        exchange=exchange,
        context=context,
        sequence=sequence,
    )


def residuals(model: DeviceModel, cells: Sequence[Cell]) -> list[Residual]:
    """Of all of them."""
    return [_residual(model.latency(cell.sp, cell.tp), cell) for cell in cells]


def _residual(latency: Latency, cell: Cell) -> Residual:
    prefill_s = latency.iteration_s([(cell.length, 0)] * cell.batch, 0, 0)
    decode_s = latency.decode_s(cell.batch, cell.batch * cell.length)
    return Residual(
        cell=cell, prefill=prefill_s / cell.prefill_s - 1, decode=decode_s / cell.decode_s - 1
    )


def _token(sp: int, tp: int) -> tuple[float, ...]:
    return 1 / (sp * tp), 2 * (tp - 1) / (tp * sp), (sp - 1) / (sp * tp)


def _square(sp: int, tp: int) -> tuple[float, ...]:
    return 1 / (sp * tp), (sp - 1) / (sp * sp * tp)


def _prefill(cell: Cell) -> tuple[float, ...]:
    tokens = cell.batch * cell.length
    squares = tokens * cell.length
    return (
        *(tokens * each for each in _token(cell.sp, cell.tp)),
        *(squares * each for each in _square(cell.sp, cell.tp)),
    )


def _decode(cell: Cell) -> tuple[float, ...]:
    devices = cell.sp * cell.tp
    return cell.batch * cell.length / devices, cell.batch / devices


def _fit(
    inputs: Sequence[Sequence[float]], seconds: Sequence[float], scales: Sequence[float]
) -> list[float]:
    scale = np.asarray(scales, dtype=float)
    found = non_negative(np.asarray(inputs) / scale[:, None], np.asarray(seconds) / scale)
    return [float(each) for each in found]


def _sum(terms: Sequence[float], shares: Sequence[float]) -> float:
    return sum(term * share for term, share in zip(terms, shares, strict=True))
