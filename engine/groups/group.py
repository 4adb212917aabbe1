"""Groups of ranks that communicate, each operation recorded as a collective."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist

from collectors.clock import now_ns
from collectors.level import Level, declare
from engine.groups.pending import Pending

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from collectors.board import Board
    from collectors.recorder import Recorder

IN_FLIGHT = "in_flight."
"""Begins the names of spans from the beginning of a communication to the end of waiting for it."""
declare(Level.ALWAYS, IN_FLIGHT)
# Named so since torch 2.13, which warns of the names before.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_REDUCTIONS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}


@dataclass(kw_only=True)
class CurrentStep:
    """The step that the process is in; its trainer sets it, its groups read it.

    Attributes:
        board: where others see what the process does just now, if it has one.
    """

    number: int = -1
    board: Board | None = None


class Meeting:
    """One operation of a group: enter it for as long as this rank waits for others in it.

    An operation that hides its communication waits in between, and not for long: it is recorded
    as beginning with the first wait and lasting as long as all of them together. From when it was
    begun to its last wait is recorded as a span ``in_flight.<axis>``: what share of communication
    was hidden is one minus their ratio.
    """

    def __init__(
        self,
        name: str,
        *,
        group: Group,
        sequence: int,
        size_bytes: int,
        recorder: Recorder,
        current_step: CurrentStep,
    ) -> None:
        self.name = name
        self._group = group
        self._sequence = sequence
        self._size_bytes = size_bytes
        self._recorder = recorder
        self._current_step = current_step
        self._begun_ns = now_ns()
        self._start_ns = 0
        self._entered_ns = 0
        self._left_ns = 0
        self._waited_ns = 0

    def __enter__(self) -> None:
        board = self._current_step.board
        if board is not None:
            board.enter(
                self.name,
                group=self._group.name,
                group_size=self._group.size,
                sequence=self._sequence,
                size_bytes=self._size_bytes,
            )
        self._entered_ns = now_ns()
        self._start_ns = self._start_ns or self._entered_ns

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._left_ns = now_ns()
        self._waited_ns += self._left_ns - self._entered_ns
        if kind is None and self._current_step.board is not None:
            self._current_step.board.leave()

    def record(self) -> None:
        """All have come."""
        step = self._current_step.number
        self._recorder.record_span(self._group.in_flight, self._begun_ns, self._left_ns, step)
        self._recorder.collective(
            self.name,
            group=self._group.name,
            group_size=self._group.size if self._group.synchronous else 0,
            sequence=self._sequence,
            size_bytes=self._size_bytes,
            start_ns=self._start_ns,
            end_ns=self._start_ns + self._waited_ns,
            step=self._current_step.number,
        )


class Group:
    """Ranks along one axis of the mesh, as seen from one of them.

    Operations are called by every rank of the group in the same order. A group of one does
    nothing and records nothing.

    Attributes:
        axis: of the mesh, such as ``tp``.
        name: axis and global ranks, such as ``tp[0,1]``.
        in_flight: what spans of its communication are called.
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
        self.axis = axis
        self.in_flight = IN_FLIGHT + axis
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

    def start_all_gather(self, out: Tensor, part: Tensor) -> Pending:
        """Begin to collect every rank's ``part`` in ``out``, in the group's order."""
        meeting = self.meet("all_gather", part.nbytes)
        work = _all_gather(out, part, group=self.process_group, async_op=True)
        return Pending(work, meeting)

    def start_reduce_scatter(self, out: Tensor, terms: Tensor) -> Pending:
        """Begin to sum every rank's ``terms``, of which this rank's share comes to be ``out``."""
        meeting = self.meet("reduce_scatter", terms.nbytes)
        work = _reduce_scatter(out, terms, group=self.process_group, async_op=True)
        return Pending(work, meeting)

    def close(self) -> None:
        """Leave the group: it communicates no more."""
        self.process_group = None

    def meet(self, name: str, size_bytes: int) -> Meeting:
        """The next operation of the group, which it calls so."""
        self._sequence += 1
        return Meeting(
            name,
            group=self,
            sequence=self._sequence - 1,
            size_bytes=size_bytes,
            recorder=self._recorder,
            current_step=self._current_step,
        )

    def _record(self, name: str, size_bytes: int, operation: Callable[[], object]) -> None:
        meeting = self.meet(name, size_bytes)
        with meeting:
            operation()
        meeting.record()


def disconnect() -> None:
    """Leave torch.distributed, once all groups are closed.

    Gloo's threads end with the last reference to it. One of them that frees a tensor while the
    interpreter ends aborts the process (torch 2.13), so no cycle may hold it until then.
    """
    dist.destroy_process_group()
    gc.collect()
