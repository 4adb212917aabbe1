"""What was seen, in the terms of the hang's judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.clock import host_name
from playbooks.hang.observation import Frame, Observation, RankStack
from playbooks.hang.place import place_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from collectors.samplers.thread_stack import ProcessStacks, StackFrame
    from opsuite.attaching.look import Look
    from opsuite.attaching.targets import Targets
    from playbooks.hang.place import Place


def observations_of(targets: Targets, look: Look) -> list[Observation]:
    """The ranks of this host, those that should be here and are not among them."""
    found = []
    for target in targets.ranks:
        vitals = look.ranks[target.rank].vitals
        found.append(
            Observation(
                rank=target.rank,
                host=host_name(),
                pid=target.pid,
                board=None,
                alive=vitals is not None,
                stopped=vitals is not None and vitals.stopped,
                cpu_s=None if vitals is None else vitals.family_cpu_s,
                io_bytes=None if vitals is None else vitals.family_io_bytes,
            )
        )
    gone = [
        Observation(rank=rank, host=host_name(), pid=0, board=None, alive=False)
        for rank in targets.missing
    ]
    return sorted([*found, *gone], key=lambda one: one.rank)


def stacks_of(look: Look, roots: Mapping[int, str]) -> list[RankStack]:
    """The stacks of the ranks and their children, as far as they could be read.

    Args:
        roots: by process, of the collectives that they are in.
    """
    return [
        _stack(sighting.rank, found, roots.get(found.pid, ""))
        for sighting in look.ranks.values()
        for found in [*([sighting.stacks] if sighting.stacks else []), *sighting.children]
        if found.main is not None
    ]


def _stack(rank: int, found: ProcessStacks, root: str) -> RankStack:
    main = found.main
    assert main is not None
    return RankStack(
        rank=rank,
        frames=_frames(main.frames),
        active=main.active,
        child=f"{found.child} {found.pid}" if found.child else "",
        others=tuple(_frames(thread.frames) for thread in found.threads if thread is not main),
        root=root,
    )


def _frames(frames: Sequence[StackFrame]) -> tuple[Frame, ...]:
    return tuple(
        Frame(function=frame.function, file=frame.path, line=frame.line) for frame in frames
    )


def places_of(stacks: Sequence[RankStack]) -> dict[int, Place]:
    """Where each rank is, as far as its stack shows it."""
    found = {}
    for rank in sorted({stack.rank for stack in stacks}):
        place = place_of([stack for stack in stacks if stack.rank == rank])
        if place is not None:
            found[rank] = place
    return found
