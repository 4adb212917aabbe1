"""The processes above the ranks, killed."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.faults.host_fault import HostFault
from engine.faults.outside import OutsideFault

if TYPE_CHECKING:
    from engine.faults.scene import Scene


@dataclass(frozen=True, kw_only=True)
class ExecutorKill(HostFault):
    """The executor of one host is killed by SIGKILL, and its ranks lose their parent."""

    name: ClassVar[str] = "executor-kill"

    def strike(self, scene: Scene) -> None:
        os.kill(scene.executor_pid(self.struck_host(scene)), signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class DriverKill(OutsideFault):
    """The job's driver is killed by SIGKILL."""

    name: ClassVar[str] = "driver-kill"

    def strike(self, scene: Scene) -> None:
        os.kill(scene.driver_pid(), signal.SIGKILL)
