"""File systems that may be filled and frozen: small ones, made for it."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from collectors.errors import OpsuiteError

if TYPE_CHECKING:
    from types import TracebackType

MOST_BYTES = 1 << 30
"""A file system beyond that was not made to be filled."""
_SYSTEMS_OWN = ("/", "/dev/shm", "/tmp", "/run", "/home", "/var", "/var/tmp", "/root")  # noqa: S108
_TOOLS = ("mkfs.ext4", "mount", "umount")
_UNMOUNT_S = 10.0


class SmallFilesystem:
    """A context manager: an ext4 of its own at ``directory``, in a file beside it. Needs root.

    Args:
        directory: where it is mounted; made if it is missing.
        size_bytes: at least 8 MiB.
    """

    def __init__(self, directory: Path, size_bytes: int) -> None:
        assert size_bytes <= MOST_BYTES
        self._directory = directory
        self._image = directory.with_name(f".{directory.name}.ext4")
        self._size_bytes = size_bytes

    def __enter__(self) -> Self:
        """Make and mount it.

        Raises:
            OpsuiteError: the machine refused; nothing is left.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        if self._image.exists():  # its process was killed
            self._clear()
        try:
            with self._image.open("xb") as image:
                image.truncate(self._size_bytes)
            eager = "lazy_itable_init=0,lazy_journal_init=0"  # no writes of its own later
            _run(["mkfs.ext4", "-q", "-m", "0", "-E", eager, str(self._image)])
            _run(["mount", "-o", "loop", str(self._image), str(self._directory)])
        except BaseException:
            self._image.unlink(missing_ok=True)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._clear()

    def _clear(self) -> None:
        """Processes that have just been killed may hold it for a moment yet."""
        end = time.monotonic() + _UNMOUNT_S
        while self._directory.is_mount():
            lazily = ["--lazy"] if time.monotonic() > end else []
            with suppress(OpsuiteError):
                _run(["umount", *lazily, str(self._directory)])
                continue
            time.sleep(0.05)
        self._image.unlink(missing_ok=True)

    @staticmethod
    @functools.cache
    def why_unavailable() -> str:
        """Why none can be made here, or ""; found out by making one."""
        for tool in _TOOLS:
            if shutil.which(tool) is None:
                return f"the command {tool} is not installed"
        try:
            with (
                tempfile.TemporaryDirectory() as directory,
                SmallFilesystem(Path(directory) / "probe", 8 << 20),
            ):
                return ""
        except (OpsuiteError, OSError) as error:
            return f"no file system can be mounted: {error}"


def why_not_small(path: Path) -> str:
    """Why the file system that ``path`` is on may not be harmed, or ""."""
    try:
        size, device = os.statvfs(path), path.stat().st_dev
    except OSError as error:
        return f"{path} cannot be looked at: {error.strerror}"
    own = {Path(each).stat().st_dev for each in _SYSTEMS_OWN if Path(each).exists()}
    if device in own:
        return "the checkpoints have no file system of their own"
    if size.f_blocks * size.f_frsize > MOST_BYTES:
        return f"the file system of the checkpoints has more than {MOST_BYTES >> 20} MiB"
    return ""


def kind_of_filesystem(path: Path) -> str:
    """Such as "ext4"; "" where nobody says."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
            before, _, after = line.partition(" - ")
            if before.split(" ")[2] == wanted:
                return after.split(" ")[0]
    return ""


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OpsuiteError(
            f"{command[0]} failed: {done.stderr.strip()}", where=command[-1], remedy="run as root"
        )
