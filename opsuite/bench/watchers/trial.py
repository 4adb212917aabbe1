"""A trainer that knows nothing of opsuite, and the way in which it is run."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

TRAINERS = {"ddp": "ddp_trainer.py", "hf": "hf_trainer.py"}
WAYS = ("watch", "run")
PLAIN = "plain"
_FOLDER = Path(__file__).resolve().parents[3] / "tests" / "trainers"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of a trainer.

    Attributes:
        trainer: "ddp" (a plain script) or "hf" (Hugging Face's Trainer).
        way: "watch" (two lines in the script), "run" (``opsuite run --`` before it) or "plain".
        arguments: of the script.
        environment: more variables for it.
    """

    trainer: str
    way: str
    ranks: int
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self) -> list[str]:
        """As a user would type it."""
        return [
            *([*OPSUITE, "run", "--"] if self.way == "run" else []),
            *torchrun(self.ranks, TRAINERS[self.trainer]),
            *self.arguments,
            *(["--watch"] if self.way == "watch" else []),
        ]

    def variables(self, home: Path) -> dict[str, str]:
        """The environment that it needs beside the usual one."""
        return {
            "OPSUITE_HOME": str(home),
            "OPSUITE_COLLECT": "0",
            **ONE_THREAD,
            **self.environment,
        }

    def __str__(self) -> str:
        return f"{self.trainer} by {self.way}, {self.ranks} ranks, {' '.join(self.arguments)}"


OPSUITE = [sys.executable, "-P", "-m", "opsuite.cli.main"]


def torchrun(ranks: int, script: str) -> list[str]:
    """Start ``script`` of tests/trainers with that many ranks."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, f"--nproc-per-node={ranks}", str(script_path(script))]


def script_path(script: str) -> Path:
    """Where a script of tests/trainers lies.

    Raises:
        UsageError: this opsuite was installed without its tests.
    """
    path = _FOLDER / script
    if not path.exists():
        raise UsageError(
            "the trainers are not here", where=str(path), remedy="run this in a source tree"
        )
    return path
