"""Members of a group read and do nothing else; others are let in nowhere."""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from collectors.daemon.endpoint import Note
from collectors.daemon.peers import Role, role_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from collectors.run import RunDirectory

    StartDaemon = Callable[..., int]

if os.geteuid() != 0:
    pytest.skip("only root can become other users", allow_module_level=True)

PROBE = """
import json, os, sys
from pathlib import Path
import collectors.query.answers  # before it may not read its own files any more
from collectors.version import own_version; own_version()
from collectors.daemon.client import DaemonClient
from collectors.errors import OpsuiteError
def told(act):
    try:
        return act() or "done"
    except OpsuiteError as error:
        return error.what
os.setgroups([])
os.setgid(int(sys.argv[3]))
os.setuid(int(sys.argv[2]))
said = {}
try:
    client = DaemonClient.connect(Path(sys.argv[1]))
except OpsuiteError as error:
    said["connect"] = error.what
else:
    said["sql"] = told(lambda: client.rows("SELECT count(*) FROM runs"))
    said["view"] = told(lambda: len(client.view("runs").rows))
    said["status"] = told(lambda: client.status()["pid"] > 0)
    said["stop"] = told(client.stop)
    said["stacks"] = told(lambda: client.stacks("last"))
    said["dump"] = told(lambda: client.dump("last", Path("/tmp/never")))
print(json.dumps(said))
"""


@pytest.fixture
def member() -> str:
    """A user who is not root, with a group."""
    for name in ("daemon", "bin", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    pytest.skip("there is no other user here")


@pytest.fixture
def socket_of_group(
    home: Path, run: RunDirectory, start_daemon: StartDaemon, member: str
) -> Iterator[Path]:
    start_daemon("--group", str(pwd.getpwnam(member).pw_gid))
    note = Note.read(home)
    assert note is not None
    yield Path(note.socket)
    shutil.rmtree(Path(note.socket).parent, ignore_errors=True)


def ask(path: Path, user: str) -> dict[str, object]:
    facts = pwd.getpwnam(user)
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROBE, str(path), str(facts.pw_uid), str(facts.pw_gid)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    said: dict[str, object] = json.loads(done.stdout)
    return said


def test_a_member_reads_and_does_nothing_else(socket_of_group: Path, member: str) -> None:
    assert socket_of_group.parent.stat().st_mode & 0o777 == 0o710
    assert socket_of_group.stat().st_mode & 0o777 == 0o660
    said = ask(socket_of_group, member)
    assert said["sql"] == [[1]]
    assert said["view"] == 1
    assert said["status"] is True
    for verb in ("stop", "stacks", "dump"):
        assert said[verb] == f"{verb} is for the collector's owner"


def test_others_are_kept_out_by_the_directory_and_by_the_daemon(
    socket_of_group: Path, member: str
) -> None:
    gid = pwd.getpwnam(member).pw_gid
    stranger = next(
        (user.pw_name for user in pwd.getpwall() if role_of(user.pw_uid, gid) is Role.STRANGER),
        None,
    )
    if stranger is None:
        pytest.skip("there is no third user here")
    assert ask(socket_of_group, stranger) == {"connect": "this collector is not open to you"}
    socket_of_group.parent.chmod(0o755)
    socket_of_group.chmod(0o666)
    assert ask(socket_of_group, stranger) == {"connect": "this collector belongs to somebody else"}


def test_members_are_those_of_the_group(member: str) -> None:
    facts = pwd.getpwnam(member)
    assert role_of(facts.pw_uid, facts.pw_gid) is Role.MEMBER
    assert role_of(facts.pw_uid, None) is Role.STRANGER
    free = max(entry.gr_gid for entry in grp.getgrall() if entry.gr_gid < 60_000) + 1
    assert role_of(facts.pw_uid, free) is Role.STRANGER
