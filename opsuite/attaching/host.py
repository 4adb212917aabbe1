"""Samples of the host and its devices during an attached look, where no collector takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from collectors.daemon.chore import Warnings
from collectors.daemon.client import DaemonClient
from collectors.daemon.heartbeat import LocalRun, Recording
from collectors.daemon.journal import Journal
from collectors.daemon.sampling import Sampling, host_samplers
from collectors.errors import OpsuiteError
from collectors.samplers.standing import State
from opsuite.attaching.permissions import Cost
from opsuite.attaching.recording import ROLE

if TYPE_CHECKING:
    from pathlib import Path

    from collectors.run import RunDirectory
    from opsuite.attaching.targets import Targets

_DEVICES = "nvml"


class HostSamples:
    """Reads the host's samplers into the run, if nobody else does. Use it as a context manager."""

    def __init__(self, home: Path, run: RunDirectory, targets: Targets) -> None:
        self._run_id = run.run_id
        self._journal = Journal()
        self._local = LocalRun(
            run=run,
            processes=[
                Recording(process="", role=ROLE, rank=target.rank, pid=target.pid)
                for target in targets.ranks
            ],
        )
        pids = [target.pid for target in targets.ranks]
        self._sampling = Sampling(
            lambda: [] if _is_collected(home) else host_samplers(home, lambda: pids),
            lambda: {self._run_id: self._local},
            self._journal,
            Warnings(),
        )

    def __enter__(self) -> Self:
        self._journal.keep([self._run_id])
        return self

    def __exit__(self, *_: object) -> None:
        self._sampling.close()
        self._journal.keep([])

    def tick(self) -> None:
        """Have those samplers read that are due."""
        self._sampling.look()

    def costs(self) -> list[Cost]:
        """What it costs that there are no devices to read."""
        return [
            Cost(
                what=f"no samples of GPUs: {one['reason']}",
                lost="their clocks, temperatures, errors and use during this look",
                remedy="see `opsuite doctor`; without GPUs there is nothing to do",
            )
            for one in self._sampling.status()
            if one["name"] == _DEVICES and one["state"] in (State.ABSENT, State.FAILING)
        ]


def _is_collected(home: Path) -> bool:
    """Whether a collector runs, which samples the host for every run that lives."""
    try:
        client = DaemonClient.find(home)
    except OpsuiteError:
        return True  # it is there, and does not answer: two would sample twice
    if client is None:
        return False
    client.close()
    return True
