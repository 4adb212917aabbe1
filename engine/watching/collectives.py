"""Collectives of anybody's trainer: when this rank arrives and leaves, and the calling line."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from collectors.clock import now_ns
from collectors.membership import group_name
from engine.watching.call_site import call_site
from engine.watching.habit import Habit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from collectors.board import Board
    from collectors.recorder import Recorder
    from engine.watching.patches import Patches
    from engine.watching.timeline import Timeline

_WATCHED = (
    "all_reduce",
    "all_reduce_coalesced",
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_to_all",
    "all_to_all_single",
    "barrier",
    "broadcast",
    "broadcast_object_list",
    "gather",
    "gather_object",
    "monitored_barrier",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "scatter",
    "scatter_object_list",
    "_broadcast_coalesced",
)


@dataclass(frozen=True, kw_only=True)
class GroupFacts:
    """What is to be known of a process group.

    Attributes:
        name: with its members, such as ``world[0-3]``.
        size: number of ranks.
        synchronous: whether a call that returns has ended (gloo).
    """

    name: str
    size: int
    synchronous: bool


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """This rank in a collective, since ``at_ns``; ``sequence`` is its number in the group."""

    name: str
    facts: GroupFacts
    size_bytes: int
    sequence: int
    at_ns: int


class Collectives:
    """Sees this rank's collectives, and numbers them in each group.

    Those that are issued and waited for later, or run on a device, are recorded with unknown
    membership: the host does not see their end, and no blocked time is derived.
    """

    def __init__(self, recorder: Recorder, board: Board, timeline: Timeline) -> None:
        self._recorder = recorder
        self._board = board
        self._timeline = timeline
        self._groups: dict[Any, GroupFacts] = {}
        self._sequences: dict[str, int] = {}
        self._habit = Habit()
        self._inside = False

    def install(self, patches: Patches) -> None:
        """Watch the functions of torch.distributed."""
        for name in _WATCHED:
            for owner in (dist, distributed_c10d):
                patches.wrap(owner, name, partial(self._watched, name))

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside or torch.compiler.is_compiling() or not self._timeline.here():
                return function(*args, **kwargs)
            group = kwargs.get("group")
            if group is None:
                found = (each for each in args if isinstance(each, dist.ProcessGroup))
                group = next(found, None)
            facts = self.facts(group)
            if facts is None:  # this rank is not in it, or nothing is initialised
                return function(*args, **kwargs)
            later = bool(kwargs.get("async_op"))
            with self.record(name.strip("_"), facts, _size(args, kwargs), later=later):
                return function(*args, **kwargs)

        return call

    @contextmanager
    def record(
        self, name: str, facts: GroupFacts, size_bytes: int, *, later: bool = False
    ) -> Iterator[None]:
        """Around a collective; ``later``: it may not have ended when the body has."""
        self._inside = True
        arrival = self.enter(name, facts, size_bytes)
        try:
            yield
        finally:
            self._inside = False
            self.leave(arrival, later=later)

    def enter(self, name: str, facts: GroupFacts, size_bytes: int) -> Arrival:
        """This rank arrives."""
        sequence = self._sequences.get(facts.name, 0)
        self._sequences[facts.name] = sequence + 1
        where = call_site()
        self._board.enter(
            name,
            group=facts.name,
            group_size=facts.size,
            sequence=sequence,
            size_bytes=size_bytes,
            where=where,
            unusual=self._habit.is_broken_by(name, facts.name, where),
        )
        return Arrival(
            name=name, facts=facts, size_bytes=size_bytes, sequence=sequence, at_ns=now_ns()
        )

    def leave(self, arrival: Arrival, *, later: bool = False) -> None:
        """This rank leaves."""
        end_ns = now_ns()
        self._board.leave()
        facts = arrival.facts
        self._recorder.collective(
            arrival.name,
            group=facts.name,
            group_size=facts.size if facts.synchronous and not later else 0,
            sequence=arrival.sequence,
            size_bytes=arrival.size_bytes,
            start_ns=arrival.at_ns,
            end_ns=end_ns,
            step=self._timeline.step,
        )

    def facts(self, group: dist.ProcessGroup | None, axis: str = "") -> GroupFacts | None:
        """Of a process group (None: all ranks); None where this rank has no part in it."""
        key = (group, axis)
        if key not in self._groups:
            found = _facts(group, axis)
            if found is None:
                return None
            self._groups[key] = found
        return self._groups[key]


def _facts(group: dist.ProcessGroup | None, axis: str) -> GroupFacts | None:
    if not dist.is_initialized():
        return None
    group = group or dist.group.WORLD
    try:
        ranks = dist.get_process_group_ranks(group)
        backend = dist.get_backend(group)
    except (ValueError, RuntimeError, KeyError):  # no member of it
        return None
    label = axis or ("world" if group is dist.group.WORLD else f"group{_name_of(group)}")
    return GroupFacts(
        name=group_name(label, ranks), size=len(ranks), synchronous=str(backend) == "gloo"
    )


def _name_of(group: dist.ProcessGroup | None) -> str:
    return "" if group is None else str(group.group_name)


def _size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Bytes of the tensor that is communicated, by the first that is given."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            return value.nbytes
        if isinstance(value, list) and value and isinstance(value[0], torch.Tensor):
            return sum(each.nbytes for each in value if isinstance(each, torch.Tensor))
    return 0
