"""Trees of files as the kernel shows them, and a clock that goes when it is told to."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NOBODY = 65534


class Clock:
    """Seconds that only the test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Tree:
    """A root directory with some of what ``/proc`` and ``/sys`` have."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, files: Mapping[str, str]) -> None:
        """Make files, or make them anew."""
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def remove(self, name: str) -> None:
        """Take a file or directory away."""
        path = self.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    @contextmanager
    def denied(self, name: str) -> Iterator[None]:
        """The kernel refuses that file or directory to this process, not root meanwhile."""
        path = self.root / name
        mode = path.stat().st_mode & 0o777
        path.chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(_NOBODY)
        try:
            yield
        finally:
            os.seteuid(user)
            path.chmod(mode)


@pytest.fixture
def clock() -> Clock:
    """A clock of this test's own."""
    return Clock()


@pytest.fixture
def tree() -> Iterator[Tree]:
    """An empty tree, where anybody may look around (not so below pytest's own directory)."""
    with tempfile.TemporaryDirectory(prefix="opsuite-test-") as root:
        Path(root).chmod(0o755)
        yield Tree(Path(root))
