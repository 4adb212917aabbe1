"""Where a daemon listens, and the note in its home that says where.

The socket's path must be short, on a local file system and in a directory that only its owner can
write; the home need not be either of these. A client of the same user reads the note
``<home>/collect.json``; members of a group are told the path.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.atomic import write_atomically
from collectors.clock import boot_id, host_name, process_lives_since
from collectors.errors import StorageError

if TYPE_CHECKING:
    from typing import Self

NOTE = "collect.json"
_BACKLOG = 64
_LONGEST = 100  # bytes of a socket's path: macOS takes 103, Linux 107


@dataclass(frozen=True, kw_only=True)
class Note:
    """What a daemon says about itself in its home.

    Attributes:
        socket: path of its socket.
        pid, host, boot_id: which process it is.
        listens_ns: since when, by the monotonic clock of that boot.
        protocol: the version that it speaks.
    """

    socket: str
    pid: int
    host: str
    boot_id: str
    listens_ns: int
    protocol: int

    @classmethod
    def read(cls, home: Path) -> Self | None:
        """The note of the last daemon of ``home``; None where there is none that can be read."""
        try:
            data = json.loads((home / NOTE).read_text(encoding="utf-8"))
            known = {name: data[name] for name in cls.__dataclass_fields__}
        except (OSError, ValueError, TypeError, KeyError):
            return None
        whole = all(isinstance(known[name], int) for name in ("pid", "listens_ns", "protocol"))
        return cls(**known) if whole and isinstance(known["socket"], str) else None

    def write(self, home: Path) -> None:
        """Put it into ``home``."""
        write_atomically(home / NOTE, json.dumps(asdict(self)) + "\n")

    @property
    def lives(self) -> bool:
        """Whether its process is one of this host, and there."""
        here = (self.host, self.boot_id) == (host_name(), boot_id())
        return here and process_lives_since(self.pid, self.listens_ns)


def socket_path(home: Path, *, runtime: Path | None, group: int | None) -> Path:
    """Where the daemon of ``home`` listens: in the user's runtime directory, else below /tmp.

    With a group it is always below /tmp, since a runtime directory lets nobody else through.
    """
    digest = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]
    if group is not None:
        return Path("/tmp") / f"opsuite-{os.getuid()}-{group}" / f"{digest}.sock"  # noqa: S108 - owner and mode are checked
    if runtime is not None and runtime.is_dir():
        path = runtime / "opsuite" / f"{digest}.sock"
        if len(os.fsencode(path)) <= _LONGEST:
            return path
    return Path("/tmp") / f"opsuite-{os.getuid()}" / f"{digest}.sock"  # noqa: S108 - owner and mode are checked


def listen(path: Path, group: int | None) -> socket.socket:
    """Listen at ``path``; a socket that a dead daemon left there is replaced.

    The caller holds the store's lock, so no live daemon of this home listens there.

    Raises:
        StorageError: the directory is somebody else's, or cannot be made.
    """
    try:
        _own_directory(path.parent, group)
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _bind(listener, path, group)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise StorageError.from_os_error(error, f"listening at {path}") from error
    return listener


def _bind(listener: socket.socket, path: Path, group: int | None) -> None:
    listener.bind(str(path))  # the directory keeps others out until the mode is set
    if group is not None:
        os.chown(path, -1, group)
    path.chmod(0o600 if group is None else 0o660)
    listener.listen(_BACKLOG)


def _own_directory(directory: Path, group: int | None) -> None:
    """Make ``directory`` ours alone (or ours to write, the group's to pass through)."""
    mode = 0o700 if group is None else 0o710
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise StorageError(
            "the directory for the collector's socket belongs to somebody else",
            where=str(directory),
            remedy="have it removed, or set XDG_RUNTIME_DIR to a directory of your own",
        )
    if group is not None and found.st_gid != group:
        os.chown(directory, -1, group)
    if stat.S_IMODE(found.st_mode) != mode:
        directory.chmod(mode)
