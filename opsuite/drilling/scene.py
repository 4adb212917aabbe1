"""A job that is being drilled, as outside faults see it (:class:`engine.faults.scene.Scene`)."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from collectors.board import SUFFIX
from collectors.board_reader import BoardReader
from collectors.clock import process_lives_since
from collectors.errors import DataError
from engine.supervision.job_spec import DRIVER

if TYPE_CHECKING:
    from pathlib import Path

    from engine.faults.host_network import HostNetwork
    from engine.supervision.supervisor import Supervisor


class JobScene:
    """Finds ranks by their boards, and processes by who started them; faults share it, each in a
    thread of its own.

    Args:
        network: what joins the hosts; None where they share one.
    """

    def __init__(self, run: Path, supervisor: Supervisor, network: HostNetwork | None) -> None:
        self._run = run
        self._supervisor = supervisor
        self._network = network
        self._boards: dict[str, BoardReader] = {}
        self._looking = threading.Lock()

    def rank_pid(self, rank: int) -> int:
        """The process of a rank just now.

        Raises:
            ProcessLookupError: it has none.
        """
        for board in self._live():
            if board.facts.rank == rank:
                return board.facts.pid
        raise ProcessLookupError(f"rank {rank} is not running")

    def executor_pid(self, host: str) -> int:
        """See the protocol."""
        return self._supervisor.pid(host)

    def driver_pid(self) -> int:
        """See the protocol."""
        return self._supervisor.pid("driver")

    def host_of(self, rank: int) -> str:
        """By what the newest driver has written down.

        Raises:
            LookupError: it has given nobody this rank.
        """
        places = self._state().get("course", {}).get("places", [])
        for place in places:
            if place["first"] <= rank < place["first"] + place["count"]:
                return str(place["host"])
        raise LookupError(f"no host has rank {rank}")

    def network(self) -> HostNetwork | None:
        """See the protocol."""
        return self._network

    def checkpoints(self) -> Path:
        """See the protocol."""
        return self._run / "checkpoints"

    def step(self) -> int:
        """See the protocol."""
        return max((board.read().step for board in self._live()), default=0)

    def _live(self) -> list[BoardReader]:
        """Boards of ranks that live, the newest first."""
        with self._looking:
            for path in (self._run / "boards").glob(f"*{SUFFIX}"):
                if path.name not in self._boards:
                    with suppress(DataError, OSError):  # it has just begun
                        self._boards[path.name] = BoardReader(path)
            live = [each for each in self._boards.values() if _lives(each)]
        return sorted(live, key=lambda each: -each.facts.since_ns)

    def _state(self) -> dict[str, Any]:
        files = sorted((self._run / DRIVER).glob("generation-*.json"), reverse=True)
        for path in files:
            try:
                return dict(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError):
                continue  # it has just begun
        return {}


def _lives(board: BoardReader) -> bool:
    return process_lives_since(board.facts.pid, board.facts.since_ns)
