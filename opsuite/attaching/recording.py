"""The run that an attached look is kept as: one recorder for each rank that is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from collectors.clock import host_name
from collectors.level import Level, declare
from collectors.recorder import Identity, open_recorder
from collectors.redaction import redact_command
from collectors.run import RunDirectory
from collectors.samplers.stack_entries import fitted, stack_entries
from opsuite.attaching.programs import script_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from opsuite.attaching.look import Look, Sighting
    from opsuite.attaching.targets import Target, Targets

ROLE = "attached"
declare(Level.TRIGGER, "stack")


class Recording:
    """A run of the kind "training" that this process owns, in the name of ranks it looks at."""

    def __init__(self, run: RunDirectory, targets: Targets) -> None:
        self.run = run
        self._recorders = {
            target.rank: open_recorder(run.spool, _identity(run, target.rank), level=Level.TRIGGER)
            for target in targets.ranks
        }
        for target in targets.ranks:
            self.tell(target.rank, "attached", _account(target))

    @classmethod
    def begin(cls, home: Path, targets: Targets, name: str | None, command: list[str]) -> Self:
        """Make the run.

        Raises:
            StorageError: it cannot be written.
        """
        run = RunDirectory.create(
            home,
            name=name or f"attached-{script_of(targets.ranks[0].process)}",
            kind="training",
            command=command,
            config={"attached": {str(each.rank): _account(each) for each in targets.ranks}},
            world_size=targets.world_size,
            notes="attached",
        )
        try:
            return cls(run, targets)
        except BaseException:
            run.finish("failed", 1)
            raise

    def keep(self, look: Look, *, stacks: bool) -> None:
        """Record what was seen: what processes use, and where ``stacks`` their threads too."""
        for rank, sighting in look.ranks.items():
            if sighting.vitals is not None:
                for name, value in sighting.vitals.samples().items():
                    self._recorders[rank].sample(name, value)
            for entry in entries_of(sighting) if stacks else ():
                self.tell(rank, "stack", fitted(entry))

    def tell(self, rank: int, name: str, attributes: Mapping[str, Any]) -> None:
        """Keep that something happened."""
        self._recorders[rank].event(name, attributes=attributes)

    def close(self) -> None:
        """Seal what was recorded; the run goes on until :meth:`finish`."""
        for recorder in self._recorders.values():
            recorder.close()

    def finish(self, status: str, exit_code: int) -> None:
        """The run ends."""
        self.close()
        self.run.finish(status, exit_code)


def _identity(run: RunDirectory, rank: int) -> Identity:
    return Identity(
        run_id=run.run_id,
        role=ROLE,
        rank=rank,
        world_size=run.manifest.world_size,
        host=host_name(),
        coordinates={},
    )


def _account(target: Target) -> dict[str, Any]:
    process = target.process
    return {
        "rank": target.rank,
        "pid": target.pid,
        "user": process.user or "",
        "command": redact_command(process.command),
    }


def entries_of(sighting: Sighting) -> list[dict[str, Any]]:
    """The stacks of a rank and its children, one entry a thread, as the collector tells them."""
    own = [] if sighting.stacks is None else [sighting.stacks]
    return [
        {"role": ROLE, "rank": sighting.rank, **entry}
        for found in [*own, *sighting.children]
        for entry in stack_entries(found)
    ]
