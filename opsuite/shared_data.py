"""Data that lies beside a checkout and is no part of it: recorded traces, measured costs."""

from __future__ import annotations

from pathlib import Path

COSTS = Path("costmodels") / "distserve_profiler-a100-80g.distserve.json"


def find_shared(part: Path | str) -> Path | None:
    """``shared/PART`` beside or above the working directory, or this source tree; None: absent."""
    for start in (Path.cwd(), Path(__file__).resolve().parents[1]):
        for directory in (start, *start.parents):
            path = directory / "shared" / part
            if path.exists():
                return path
    return None
