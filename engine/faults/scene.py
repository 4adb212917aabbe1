"""A run as whoever strikes it from outside sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from engine.faults.host_network import HostNetwork


class Scene(Protocol):
    """Where outside faults find what they strike. A method may be called from another thread."""

    def rank_pid(self, rank: int) -> int:
        """The process of a rank."""
        ...

    def executor_pid(self, host: str) -> int:
        """The process that has a host's ranks as children."""
        ...

    def driver_pid(self) -> int:
        """The process that runs the job."""
        ...

    def host_of(self, rank: int) -> str:
        """The host that a rank is on."""
        ...

    def network(self) -> HostNetwork | None:
        """What joins the hosts; None where they are not apart."""
        ...

    def checkpoints(self) -> Path:
        """The directory of the run's checkpoints."""
        ...

    def step(self) -> int:
        """The last step that has begun, from 1; 0: none yet."""
        ...
