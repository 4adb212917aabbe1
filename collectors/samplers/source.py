"""Files of /proc and /sys, read with what it means that they are not there."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, TypeVar

from collectors.errors import DataError
from collectors.samplers.sampler import Absent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ESRCH)
_OFF = (errno.EOPNOTSUPP, errno.ENOSYS)


class Denied(Absent):
    """It is there, and may not be read by this user."""


def read_text(path: Path) -> str:
    """What is in a file of the kernel's.

    Raises:
        Absent: it is not there, or (Denied) may not be read.
        OSError: the kernel does not give it just now.
    """
    try:
        with path.open("rb") as file:
            return file.read().decode("utf-8", "replace")
    except OSError as error:
        raise _meaning(error, path) from error


def names_in(path: Path) -> list[str]:
    """What is in a directory of the kernel's, in order.

    Raises:
        Absent: it is not there, or may not be listed.
        OSError: the kernel does not give it just now.
    """
    try:
        return sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise _meaning(error, path) from error


def parsed(path: Path, parse: Callable[[str], T]) -> T:
    """What ``parse`` makes of a file.

    Raises:
        Absent, OSError: as :func:`read_text` does.
        DataError: it is not what such a file should be.
    """
    text = read_text(path)
    try:
        return parse(text)
    except (ValueError, IndexError, KeyError) as error:
        raise DataError(f"{path} cannot be understood ({_begin(text)})") from error


def _meaning(error: OSError, path: Path) -> Exception:
    if error.errno in _MISSING:
        return Absent(f"there is no {path}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return Denied(
            f"this user may not read {path}: let the collector's user read it, or, in a container, "
            "do not mask it"
        )
    if error.errno in _OFF:
        return Absent(f"the kernel has {path} switched off")
    return error


def _begin(text: str) -> str:
    """Enough of a file to know it by."""
    return f"it begins {text[:40]!r}" if text.strip() else "it is empty"
