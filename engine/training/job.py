"""What the launcher hands to its ranks: one file in the run directory."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from collectors.atomic import write_atomically
from collectors.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

_JOB = "job.json"
_RESULT = "result.json"


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything a rank needs beside torchrun's environment.

    Attributes:
        run_id: the run that its records belong to.
        config: a :class:`~engine.training.config.RunConfig` as data.
        corpus: directory of the prepared corpus.
        first_step: the next to do.
        first_sample: samples that were learned from before it.
        batches: where ranks find the batches of their host's loader; None: each loads its own.
        resume_from: directory of the checkpoint to go on from, or None.
        cores: cores of each local rank; empty where ranks are not pinned.
        unpinned: the reason for that, or "".
        launcher_pid: the process that ranks must not outlive.
        attempt, executor: of a job that recovers from faults: how often it was started, and the
            socket of the host's executor.
        from_memory: whether the state is in the executor's memory, after ``first_step - 1``.
    """

    run_id: str
    config: dict[str, Any]
    corpus: str
    first_step: int
    first_sample: int
    batches: dict[str, Any] | None
    resume_from: str | None
    cores: tuple[tuple[int, ...], ...]
    unpinned: str
    launcher_pid: int
    attempt: int = 0
    executor: str = ""
    from_memory: bool = False

    def write(self, run: Path) -> None:
        """Store it in the run directory; StorageError where the disk refuses."""
        self.write_to(run / _JOB)

    def write_to(self, path: Path) -> None:
        """Store it in a file; StorageError where the disk refuses."""
        _write(path, asdict(self))

    @classmethod
    def read(cls, run: Path) -> Job:
        """The job of a run directory."""
        return cls.read_from(run / _JOB)

    @classmethod
    def read_from(cls, path: Path) -> Job:
        """The job in a file."""
        data = json.loads(path.read_text(encoding="utf-8"))
        cores = tuple(tuple(c) for c in data.pop("cores"))
        return cls(**data, cores=cores)


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """What rank 0 reports when training is over.

    Attributes:
        mfu, mfu_causal: share of the devices' peak; attention counted whole, as far as it looks.
        terms: how they are computed, and of what peak.
        checkpoint: the last one written, or None where the last save failed.
        model: the Hugging Face directory that the last step became, or None where there is none.
        warnings: what went wrong without ending the run.
    """

    steps: int
    loss: float
    tokens_per_s: float | None
    mfu: float | None
    mfu_causal: float | None
    terms: str
    checkpoint: str | None
    model: str | None
    warnings: tuple[str, ...]

    def write(self, run: Path) -> None:
        """Store it in the run directory; StorageError where the disk refuses."""
        _write(run / _RESULT, asdict(self))

    @classmethod
    def read(cls, run: Path) -> JobResult | None:
        """The result of a run directory, or None where rank 0 has not come to its end."""
        try:
            data = json.loads((run / _RESULT).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return cls(**{**data, "warnings": tuple(data["warnings"])})

    @staticmethod
    def clear(run: Path) -> None:
        """Forget the result of an earlier attempt."""
        (run / _RESULT).unlink(missing_ok=True)


def _write(path: Path, data: dict[str, Any]) -> None:
    try:
        write_atomically(path, json.dumps(data, indent=2))
    except OSError as error:
        raise StorageError.from_os_error(error, f"writing {path.name}") from error
