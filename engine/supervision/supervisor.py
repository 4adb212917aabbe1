"""Around a job on the host where it was launched: its driver and executors, started again.

Who ends here without having been told to is started anew: a driver finds what the one before had
written down, and an executor comes back as a host without copies. On several hosts Slurm or
Kubernetes does this for executors elsewhere.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.supervision.driver_process import RESULT
from engine.supervision.job_spec import DRIVER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from collectors.stop_request import StopRequest

_LOOK_S = 0.05
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 30.0
_WELL_S = 60.0  # who lived for so long has not failed at once
_LEAVE_S = 15.0
_AGAIN_S, _OBEY_S = 3.0, 45.0


@dataclass(frozen=True, kw_only=True)
class Member:
    """A process of the job that is started here.

    Attributes:
        name: "driver", or the executor's host.
        address: where others reach it.
        prefix: of its command: ``ip netns exec ...`` puts it elsewhere.
    """

    name: str
    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()


@dataclass(slots=True)
class _Kept:
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    begun_s: float = 0.0
    pause_s: float = _FIRST_PAUSE_S
    again_s: float = 0.0


@dataclass(slots=True)
class Supervisor:
    """Keeps a job's processes alive until the job is over.

    Args:
        driver: None where another host has it.
        on_start: told of each process that is started anew, for people.
    """

    run: Path
    driver: Member | None
    executors: Sequence[Member]
    on_start: Callable[[str], None] = lambda _: None
    _kept: dict[str, _Kept] = field(default_factory=dict)

    def start(self) -> None:
        """Start all."""
        logs = self.run / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        if self.driver is not None:
            (self.run / DRIVER / RESULT).unlink(missing_ok=True)
            command = self._command(self.driver, "driver_process")
            self._kept["driver"] = _Kept(command=command, log=logs / "driver.log")
        for member in self.executors:
            command = [*self._command(member, "executor_process"), "--host", member.name]
            log = logs / f"executor-{member.name}.log"
            self._kept[member.name] = _Kept(command=command, log=log)
        for kept in self._kept.values():
            _start(kept)

    def _command(self, member: Member, module: str) -> list[str]:
        return [
            *member.prefix,
            *(sys.executable, "-P", "-m", f"engine.supervision.{module}", str(self.run)),
            *("--parent", str(os.getpid()), "--address", member.address),
        ]

    def wait(self, stop: StopRequest) -> dict[str, Any]:
        """Until the job is over, or somebody wishes to stop it; gives the driver's result.

        The wish is told again until it is heard: a driver may have just been killed, or begun. One
        that never hears it is given up, and all else with it.
        """
        again_s = give_up_s = 0.0
        while (result := self.result()) is None:
            now = time.monotonic()
            if stop.made and now >= again_s:
                give_up_s = give_up_s or now + _OBEY_S
                again_s = now + _AGAIN_S
                self._stop()
            if give_up_s and now >= give_up_s:
                self._end_all()
                return {"status": "stopped", "reason": "its driver did not obey, and was ended"}
            self.tend()
            time.sleep(_LOOK_S) if stop.made else stop.wait(_LOOK_S)
        return result

    def tend(self) -> None:
        """Start those again that have ended; a longer pause each time they end at once."""
        now = time.monotonic()
        for name, kept in self._kept.items():
            process = kept.process
            if process is not None and process.poll() is not None:
                lasted = now - kept.begun_s
                kept.pause_s = (
                    _FIRST_PAUSE_S if lasted > _WELL_S else min(2 * kept.pause_s, _LONGEST_PAUSE_S)
                )
                kept.process, kept.again_s = None, now + kept.pause_s
                self.on_start(f"{name} has ended ({process.returncode}), and is started again")
            if kept.process is None and now >= kept.again_s:
                _start(kept)

    def result(self) -> dict[str, Any] | None:
        """What the driver said at the end, or None."""
        try:
            found = json.loads((self.run / DRIVER / RESULT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return dict(found)

    def pid(self, name: str) -> int:
        """Of a member's process just now; 0: it is not running."""
        process = self._kept[name].process
        return process.pid if process is not None and process.poll() is None else 0

    def close(self) -> None:
        """Wait until all have left, and end those that do not."""
        end = time.monotonic() + _LEAVE_S
        for kept in self._kept.values():
            if kept.process is None:
                continue
            try:
                kept.process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                kept.process.kill()
                kept.process.wait()

    def _end_all(self) -> None:
        """Ranks end with their executor."""
        for kept in self._kept.values():
            if kept.process is not None:
                kept.process.kill()

    def _stop(self) -> None:
        """The driver stops the job; a host without it leaves the job."""
        for name in ["driver"] if self.driver is not None else list(self._kept):
            process = self._kept[name].process
            if process is not None:
                process.send_signal(signal.SIGTERM)


def _start(kept: _Kept) -> None:
    with kept.log.open("ab") as log:
        kept.process = subprocess.Popen(
            kept.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # the terminal's signals are for the launcher
        )
    kept.begun_s = time.monotonic()
