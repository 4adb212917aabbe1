"""Every error a user can meet.

OpsuiteError                 what happened, where, what to do; and the exit code
├── UsageError          (2)  a wrong option, path or value: nothing was started
│   ├── ConfigError     (2)  a configuration file or ``--set`` that cannot be used
│   └── MissingExtra    (2)  the command needs ``pip install 'opsuite[engine]'``
├── DataError           (1)  a file that is corrupt, truncated or of an unknown format
├── StorageError        (1)  a disk that is full, read-only or not ours to write
├── RunFailed           (1)  a rank or server ended with an error
├── Unreachable         (3)  the run, server or store cannot be reached
└── TimedOut            (4)  it did not answer in time

Broken invariants are assertions, not members of this tree.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class OpsuiteError(Exception):
    """A failure that the user can act on.

    Args:
        what: what happened, one sentence without a full stop.
        where: the file, option, address or rank concerned ("" where ``what`` says it).
        remedy: what to do next, an imperative sentence.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.remedy:
            lines.append(f"  do:    {self.remedy}")
        return "\n".join(lines)


class UsageError(OpsuiteError):
    """The command cannot be carried out as it was given."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration that is missing, malformed or out of range."""


class MissingExtra(UsageError):  # noqa: N818 - named for what the user lacks
    """An optional part of opsuite is not installed."""


class DataError(OpsuiteError):
    """A file's content cannot be used."""


class StorageError(OpsuiteError):
    """A file cannot be written or read."""

    @classmethod
    def from_os_error(cls, error: OSError, doing: str) -> StorageError:
        """Say in words what the operating system refused while ``doing`` something."""
        where = str(error.filename or "")
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return cls(
                f"no space left while {doing}",
                where=where,
                remedy="free space, or set OPSUITE_HOME",
            )
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return cls(
                f"not allowed: {doing}",
                where=where,
                remedy="check the permissions, or set OPSUITE_HOME",
            )
        return cls(f"{error.strerror or error} while {doing}", where=where)


class RunFailed(OpsuiteError):  # noqa: N818 - named for what happened
    """A run ended with an error of its own."""


class Unreachable(OpsuiteError):  # noqa: N818 - named for what happened
    """The thing addressed is not there or does not answer."""

    exit_code = 3


class TimedOut(OpsuiteError):  # noqa: N818 - named for what happened
    """Something took longer than it may."""

    exit_code = 4
