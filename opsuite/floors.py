"""Our own packages beside a user's of the same names: ``engine``, ``collectors``, ..."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

_HOME = Path(__file__).resolve().parents[1]
_FLOORS = ("tui", "playbooks", "engine", "collectors")
_apart: dict[str, ModuleType] = {}


@contextmanager
def own_floors() -> Iterator[None]:
    """In somebody else's process: imports of the body give our packages, and those after it theirs.

    Where the user's own packages have the names of our floors, ours are kept apart, and out of
    ``sys.modules`` whenever no such body runs. Else this does nothing.
    """
    if not _apart and _are_ours():
        yield
        return
    theirs = _take_out()
    sys.modules.update(_apart)
    sys.path.insert(0, str(_HOME))
    try:
        yield
    finally:
        sys.path.remove(str(_HOME))
        _apart.update(_take_out())
        sys.modules.update(theirs)


def _are_ours() -> bool:
    """Whether ``import engine`` and the like give our packages in this process."""
    for floor in _FLOORS:
        module = sys.modules.get(floor)
        spec = module.__spec__ if module is not None else PathFinder.find_spec(floor)
        origin = getattr(spec, "origin", None)
        if origin is None or Path(origin).resolve().parent.parent != _HOME:
            return False
    return True


def _take_out() -> dict[str, ModuleType]:
    """Take all modules of the floors' names out of ``sys.modules``."""
    names = [name for name in sys.modules if name.partition(".")[0] in _FLOORS]
    return {name: sys.modules.pop(name) for name in names}
