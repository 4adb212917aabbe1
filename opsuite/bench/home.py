"""Where benchmarks keep their runs: apart from the user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def bench_home() -> Path:
    """A home of its own inside ``OPSUITE_HOME``; look into it by setting OPSUITE_HOME to it."""
    return Settings.from_environment().home / "bench"
