"""The hang of which the watchdog told, to be said once more where others have spoken since."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opsuite.watchdog.voice import LOG, spoken

if TYPE_CHECKING:
    from pathlib import Path

_MOST_BYTES = 1 << 20
_MOST_LINES = 100
_LAST = "bundle: "


def hang_told(logs: Path, run_id: str) -> list[str]:
    """The lines of the last verdict, if the run did not go on afterwards."""
    told: list[str] = []
    whole = True
    for line in _spoken_lines(logs / LOG):
        if line.startswith(f"run {run_id} has stopped stepping"):
            told, whole = [line], False
        elif line.startswith(f"run {run_id} went on"):
            told, whole = [], True
        elif not whole and len(told) < _MOST_LINES:
            told.append(line)
            whole = line.startswith(_LAST)
    return told


def _spoken_lines(log: Path) -> list[str]:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _MOST_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:  # nothing was said
        return []
    return [said for line in text.splitlines() if (said := spoken(line)) is not None]
