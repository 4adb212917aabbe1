"""What the launcher leaves in the run's directory for drivers and executors of all hosts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from collectors.atomic import write_atomically
from collectors.errors import StorageError, Unreachable

if TYPE_CHECKING:
    from pathlib import Path

_SPEC = "resilient.json"
DRIVER = "driver"
"""Directory in the run's of what drivers leave: their address, state and result."""


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """A job.

    Attributes:
        config: a :class:`~engine.training.config.RunConfig` as data.
        corpus: directory of the prepared corpus.
        first_sample: samples that were learned from before the job's step ``first_step``.
        resume_from: directory of the checkpoint that the job begins with, or None.
    """

    run_id: str
    config: dict[str, Any]
    corpus: str
    first_step: int
    first_sample: int
    resume_from: str | None

    def write(self, run: Path) -> None:
        """Store it; StorageError where the disk refuses."""
        try:
            (run / DRIVER).mkdir(mode=0o700, exist_ok=True)
            write_atomically(run / _SPEC, json.dumps(asdict(self), indent=2))
        except OSError as error:
            raise StorageError.from_os_error(error, f"writing {_SPEC}") from error

    @classmethod
    def read(cls, run: Path) -> JobSpec:
        """Of the run at ``run``; Unreachable where it has none."""
        try:
            return cls(**json.loads((run / _SPEC).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise Unreachable("this is no run that recovers from faults", where=str(run)) from error

    def samples_before(self, step: int) -> int:
        """Samples that were learned from before ``step``."""
        size: int = self.config["train"]["batch_size"]
        return self.first_sample + (step - self.first_step) * size
