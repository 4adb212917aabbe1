"""What the optional parts of opsuite need."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from collectors.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Iterable


def require_engine(doing: str, modules: Iterable[str]) -> None:
    """Raise MissingExtra where one of ``modules``, which ``doing`` needs, is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"{doing} needs {', '.join(missing)}, not installed here",
            remedy="pip install 'opsuite[engine]'",
        )
