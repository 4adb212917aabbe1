"""Groups of ranks that communicate, each operation recorded as a collective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist

from collectors.clock import now_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from collectors.board import Board
    from collectors.recorder import Recorder

_REDUCTIONS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}


@dataclass(kw_only=True)
class CurrentStep:
    """The step that the process is in; its trainer sets it, its groups read it.

    Attributes:
        board: where others see what the process does just now, if it has one.
    """

    number: int = -1
    board: Board | None = None


class Group:
    """Ranks along one axis of the mesh, as seen from one of them.

    Operations are called by every rank of the group in the same order. A group of one does
    nothing and records nothing.

    Attributes:
        name: axis and global ranks, such as ``tp[0,1]``.
        ranks: global ranks, in the group's order.
        rank: this process's place in ``ranks``.
        size: number of ranks.
        synchronous: whether an operation has ended when its call returns (gloo). Otherwise (NCCL)
            the host does not see arrivals, so collectives are recorded with unknown membership
            (``group_size`` 0) and no blocked time is derived from them.
    """

    def __init__(
        self,
        *,
        axis: str,
        ranks: Sequence[int],
        global_rank: int,
        process_group: dist.ProcessGroup | None,
        recorder: Recorder,
        current_step: CurrentStep,
        synchronous: bool = True,
    ) -> None:
        self.ranks = tuple(ranks)
        self.name = f"{axis}[{','.join(map(str, self.ranks))}]"
        self.rank = self.ranks.index(global_rank)
        self.size = len(self.ranks)
        self.process_group = process_group
        self.synchronous = synchronous
        self._recorder = recorder
        self._current_step = current_step
        self._sequence = 0

    def all_reduce(self, tensor: Tensor, op: Literal["sum", "max"] = "sum") -> Tensor:
        """Reduce ``tensor`` over the group, in place, and return it."""
        if self.size > 1:
            self._record(
                "all_reduce",
                tensor.nbytes,
                lambda: dist.all_reduce(tensor, _REDUCTIONS[op], group=self.process_group),
            )
        return tensor

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's ``tensor`` (all of one shape), in the group's order."""
        if self.size == 1:
            return [tensor]
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in self.ranks]
        self._record(
            "all_gather",
            tensor.nbytes,
            lambda: dist.all_gather(parts, tensor, group=self.process_group),
        )
        return parts

    def broadcast(self, tensor: Tensor, src: int = 0) -> Tensor:
        """Overwrite ``tensor`` with that of the rank at place ``src``, and return it."""
        if self.size > 1:
            self._record(
                "broadcast",
                tensor.nbytes,
                lambda: dist.broadcast(tensor, self.ranks[src], group=self.process_group),
            )
        return tensor

    def barrier(self) -> None:
        """Wait until every rank of the group is here."""
        if self.size > 1:
            self._record("barrier", 0, lambda: dist.barrier(group=self.process_group))

    def _record(self, name: str, size_bytes: int, operation: Callable[[], object]) -> None:
        board = self._current_step.board
        if board is not None:
            board.enter(
                name,
                group=self.name,
                group_size=self.size,
                sequence=self._sequence,
                size_bytes=size_bytes,
            )
        start_ns = now_ns()
        operation()
        end_ns = now_ns()
        if board is not None:
            board.leave()
        self._recorder.collective(
            name,
            group=self.name,
            group_size=self.size if self.synchronous else 0,
            sequence=self._sequence,
            size_bytes=size_bytes,
            start_ns=start_ns,
            end_ns=end_ns,
            step=self._current_step.number,
        )
        self._sequence += 1
