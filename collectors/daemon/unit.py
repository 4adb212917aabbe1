"""The file by which systemd or launchd keeps a collector running."""

from __future__ import annotations

import plistlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.errors import StorageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "opsuite-collect"
_SYSTEMD = Path("/run/systemd/system")


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What is to be written.

    Attributes:
        path: where.
        text: what.
        next_step: the commands that make it count.
    """

    path: Path
    text: str
    next_step: str


def describe_unit(home: Path, command: Sequence[str], *, platform: str = sys.platform) -> Unit:
    """The unit of the collector of ``home``; it runs ``command`` in the foreground and for ever."""
    words = [*command, "--home", str(home), "--idle-s", "0"]
    if platform == "darwin":
        path = Path.home() / "Library" / "LaunchAgents" / f"{NAME}.plist"
        step = f"launchctl bootstrap gui/$(id -u) {path}"
        return Unit(path=path, text=_plist(words), next_step=step)
    path = Path.home() / ".config" / "systemd" / "user" / f"{NAME}.service"
    step = (
        f"systemctl --user daemon-reload && systemctl --user enable --now {NAME}"
        " (and `loginctl enable-linger`, to have it run while you are logged out)"
    )
    return Unit(path=path, text=_service(words), next_step=step)


def install_unit(unit: Unit, *, platform: str = sys.platform) -> None:
    """Write it.

    Raises:
        UsageError: nothing here would read it.
        StorageError: it cannot be written.
    """
    if platform != "darwin" and not (_SYSTEMD.is_dir() and shutil.which("systemctl")):
        raise UsageError(
            "there is no systemd here that could keep the collector running",
            where=str(_SYSTEMD),
            remedy="start it with `opsuite collect --idle-s 0`, or let launch and serve start it",
        )
    try:
        unit.path.parent.mkdir(parents=True, exist_ok=True)
        unit.path.write_text(unit.text, encoding="utf-8")
    except OSError as error:
        raise StorageError.from_os_error(error, f"writing {unit.path}") from error


def _service(words: Sequence[str]) -> str:
    return "\n".join(
        [
            "[Unit]",
            "Description=opsuite collect: collects what runs record",
            "",
            "[Service]",
            f"ExecStart={' '.join(_quoted(word) for word in words)}",
            "Restart=on-failure",
            "KillSignal=SIGTERM",
            "TimeoutStopSec=120",
            "",
            "[Install]",
            "WantedBy=default.target",
            "",
        ]
    )


def _quoted(word: str) -> str:
    """A word as systemd reads it: % and $ stand for themselves."""
    inner = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{inner}"'


def _plist(words: Sequence[str]) -> str:
    return plistlib.dumps(
        {
            "Label": NAME,
            "ProgramArguments": list(words),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
        }
    ).decode()
