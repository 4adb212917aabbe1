"""What kind of file system the store is on: it needs the locks and maps of a local one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import psutil

from collectors.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# Locks that other hosts do not see, or pages that change under a map: not for a store.
NETWORK_TYPES = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afpfs", "webdav", "davfs", "ncpfs"),
        *("lustre", "gpfs", "beegfs", "panfs", "ceph", "glusterfs", "orangefs", "pvfs2", "wekafs"),
        *("afs", "coda", "9p", "ocfs2", "gfs2", "quobyte", "cvmfs2", "efs"),
    }
)
# Of what runs in user space, these are local; anything else may be a network.
LOCAL_FUSE = frozenset({"fuse.fuse-overlayfs", "fuse.ntfs-3g", "fuse.ext4", "fuse.bindfs"})


def require_local(home: Path, partitions: Iterable[Any] | None = None) -> None:
    """Refuse a home on a network file system.

    Args:
        partitions: mounts as of ``psutil.disk_partitions(all=True)``, the default.

    Raises:
        StorageError: it is on one.
    """
    mounts = psutil.disk_partitions(all=True) if partitions is None else partitions
    kind = file_system_of(home, mounts)
    if is_network(kind):
        raise StorageError(
            f"the store cannot be kept on a network file system ({kind})",
            where=str(home),
            remedy="set OPSUITE_HOME to a directory on a local disk of this host",
        )


def file_system_of(path: Path, partitions: Iterable[Any]) -> str:
    """The type of the file system that holds ``path``; "" where no mount is known to hold it."""
    resolved = os.path.realpath(path)
    kind, longest = "", -1
    for mount in partitions:
        point = mount.mountpoint.rstrip("/")
        inside = resolved == point or resolved.startswith(f"{point}/")
        if inside and len(point) >= longest:  # of mounts upon each other, the last one
            kind, longest = mount.fstype, len(point)
    return str(kind)


def is_network(kind: str) -> bool:
    """Whether a file system of that type may be shared with other hosts."""
    name = kind.lower()
    if name.startswith("fuse."):
        return name not in LOCAL_FUSE
    return name in NETWORK_TYPES
