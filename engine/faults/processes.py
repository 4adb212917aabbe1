"""The processes above the ranks, killed."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.faults.keys import host_name, key
from engine.faults.outside import OutsideFault

if TYPE_CHECKING:
    from engine.faults.scene import Scene


@dataclass(frozen=True, kw_only=True)
class ExecutorKill(OutsideFault):
    """The executor of one host is killed by SIGKILL, and its ranks lose their parent."""

    name: ClassVar[str] = "executor-kill"

    host: str = key("the host whose executor it is", host_name)

    def strike(self, scene: Scene) -> None:
        os.kill(scene.executor_pid(self.host), signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class DriverKill(OutsideFault):
    """The job's driver is killed by SIGKILL."""

    name: ClassVar[str] = "driver-kill"

    def strike(self, scene: Scene) -> None:
        os.kill(scene.driver_pid(), signal.SIGKILL)
