"""A case as something to call: its operands, and the operator in each of the ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.overlap import operators
from engine.overlap.absent import AbsentTransport
from engine.overlap.collective import CollectiveTransport
from engine.overlap.timing.case import ALONE, OWN_PRODUCT
from engine.overlap.timing.serial import LibraryTransport, SerialTransport

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from engine.overlap.operators import OverGroup
    from engine.overlap.tensor_parallel import TensorParallelGroup
    from engine.overlap.timing.case import Case
    from engine.overlap.transport import Transport

_CHECKED_ROWS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """:class:`~engine.overlap.operators.OverGroup` of one way."""

    transport: Transport
    keep_gathered: bool


def ways_of(group: TensorParallelGroup) -> dict[str, Way]:
    """The ways to compare, by name: the product alone; the library's collective and product, one
    after the other; our transport and the product, one after the other; the library's collective in
    chunks beside the product; the fused operator; on devices, our own product alone.

    Gathered rows are kept where gathering again costs more than memory.
    """
    assert group.process_group is not None
    library = LibraryTransport(group.process_group)
    transports: dict[str, Transport] = {
        "gemm": AbsentTransport(rank=group.rank, size=group.size),
        "serial": library,
        "serial_own": SerialTransport(group.transport),
        "chunked": CollectiveTransport(group.process_group, meet=group.meet),
        "fused": group.transport,
    }
    if not group.synchronous:
        from engine.overlap.kernels.launching import product

        transports[OWN_PRODUCT] = AbsentTransport(
            rank=group.rank, size=group.size, multiply=product
        )
    kept = {"serial", "chunked"}
    return {
        name: Way(transport=transport, keep_gathered=name in kept)
        for name, transport in transports.items()
    }


class Operation:
    """A case with its operands, drawn from a seed; ranks draw the same whole matrices."""

    def __init__(
        self, case: Case, *, rank: int, size: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        generator = torch.Generator().manual_seed(11)
        x = torch.randn(case.m, case.k, generator=generator)
        weight = torch.randn(case.n, case.k, generator=generator) / case.k**0.5
        self.case = case
        self.device = device
        gathers = case.operator == "all_gather_matmul"
        self._x = _part(x, rank, size, 0 if gathers else 1).to(device, dtype)
        self._weight = _part(weight, rank, size, 0 if gathers else 1).to(device, dtype)
        self._grad: Tensor | None = None
        if case.direction == "forward_backward":
            self._x.requires_grad_()
            self._weight.requires_grad_()
        self._rows = _expected_rows(case, x, weight, rank, size)
        self._tolerance = {torch.float32: 1e-4}.get(dtype, 3e-2)

    def __call__(self, way: OverGroup) -> Tensor:
        """Do it once; gives this rank's result."""
        if self.case.operator == "all_gather_matmul":
            [out] = operators.all_gather_matmul(self._x, [self._weight], way)
        elif self.case.operator == "matmul_reduce_scatter":
            out = operators.matmul_reduce_scatter(self._x, self._weight, way)
        else:
            out = operators.matmul_all_reduce(self._x, self._weight, way)
        if self.case.direction == "forward_backward":
            self._x.grad = self._weight.grad = None
            if self._grad is None:
                self._grad = torch.randn(out.shape, device=out.device).to(out.dtype)
            out.backward(self._grad)  # type: ignore[no-untyped-call]
        return out

    def is_right(self, out: Tensor) -> bool:
        """Whether rows of a result are those of float64."""
        rows, exact = self._rows
        found = out.detach()[rows.to(out.device)].cpu().double()
        return bool((found - exact).abs().max() <= self._tolerance * exact.abs().max())


def _part(whole: Tensor, rank: int, size: int, dim: int) -> Tensor:
    return whole.chunk(size, dim)[rank].contiguous()


def _expected_rows(
    case: Case, x: Tensor, weight: Tensor, rank: int, size: int
) -> tuple[Tensor, Tensor]:
    """Some rows of this rank's result, and what must be in them."""
    gathers = case.operator == "all_gather_matmul"
    scatters = case.operator == "matmul_reduce_scatter"
    mine = x.chunk(size, 0)[rank] if scatters else x
    rows = torch.linspace(0, mine.shape[0] - 1, min(_CHECKED_ROWS, mine.shape[0])).long()
    columns = weight.chunk(size, 0)[rank] if gathers else weight
    return rows, mine[rows].double() @ columns.double().t()


def check(operation: Operation, ways: Mapping[str, Way]) -> list[str]:
    """The ways whose result is wrong; that of the product alone is meant to be."""
    return [
        n for n, way in ways.items() if n not in ALONE and not operation.is_right(operation(way))
    ]
