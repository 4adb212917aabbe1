"""What a run's directory of checkpoints holds, as whoever strikes it sees it.

The layout is that of the training engine, which lies on a floor above: ``step-000100/`` is
published, ``step-000100.tmp/`` is being written, and shards are ``state/shard-*.safetensors``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_PUBLISHED = re.compile(r"step-(\d{6,})")
_BEING_WRITTEN = re.compile(r"step-\d{6,}\.tmp")


def save_goes_on(checkpoints: Path) -> bool:
    """Whether one is being written."""
    return any(_BEING_WRITTEN.fullmatch(name) for name in _names(checkpoints))


def newest_shards(checkpoints: Path) -> list[Path]:
    """Of the newest checkpoint that was published; none without one."""
    published = [name for name in _names(checkpoints) if _PUBLISHED.fullmatch(name)]
    if not published:
        return []
    newest = max(published, key=lambda name: int(name.removeprefix("step-")))
    return sorted((checkpoints / newest / "state").glob("shard-*.safetensors"))


def _names(checkpoints: Path) -> list[str]:
    return [path.name for path in checkpoints.iterdir()] if checkpoints.is_dir() else []
