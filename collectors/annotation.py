"""Events that are added to a run from outside: findings and alerts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from collectors.clock import host_name
from collectors.recorder import Identity, open_recorder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from collectors.run import RunDirectory


def annotate(
    run: RunDirectory, role: str, name: str, attributes: Sequence[Mapping[str, Any]]
) -> None:
    """Record one event ``name`` for each of ``attributes``, as a process of its own.

    Raises:
        StorageError: the run's spool cannot be written.
    """
    identity = Identity(
        run_id=run.run_id,
        role=role,
        rank=None,
        world_size=run.manifest.world_size,
        host=host_name(),
        coordinates={},
    )
    recorder = open_recorder(run.spool, identity)
    try:
        for each in attributes:
            recorder.event(name, attributes=each)
    finally:
        recorder.close()
