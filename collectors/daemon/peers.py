"""Who is at the other end of a socket, and what they may do there."""

from __future__ import annotations

import enum
import grp
import os
import pwd
import socket
import struct
import sys

from collectors.errors import UsageError

_LOCAL_PEERCRED = 1  # macOS: struct xucred, whose second word is the user
_XUCRED = struct.Struct("=II")
_UCRED = struct.Struct("=3i")  # Linux: process, user, group


class Role(enum.Enum):
    """What a peer may do: the owner all, a member of the group read, others nothing."""

    OWNER = "owner"
    MEMBER = "member"
    STRANGER = "stranger"


def peer_user(connection: socket.socket) -> int:
    """The user id of the process at the other end, as the kernel says."""
    if sys.platform == "darwin":
        return int(_XUCRED.unpack_from(connection.getsockopt(0, _LOCAL_PEERCRED, 76))[1])
    ucred = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(ucred)[1])


def role_of(user: int, group: int | None) -> Role:
    """What the user with that id may do with a daemon that is open to ``group``."""
    if user in (os.geteuid(), 0):
        return Role.OWNER
    if group is None:
        return Role.STRANGER
    try:
        entry = pwd.getpwuid(user)
    except KeyError:
        return Role.STRANGER
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return Role.MEMBER if group in groups else Role.STRANGER


def group_id(name: str) -> int:
    """The id of the group ``name``; UsageError where there is none."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise UsageError(
            f"there is no group {name!r}", where="--group", remedy="see `getent group`"
        ) from None
