"""Live diagnosis of a job that recovers: its driver is told of ranks that hold the others up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.clock import now_ns
from collectors.errors import OpsuiteError
from opsuite.follower import Follower
from opsuite.output import narrate
from playbooks.finding import Confidence
from playbooks.straggler_cause import Cause

if TYPE_CHECKING:
    from pathlib import Path

    from collectors.run import RunDirectory
    from playbooks.finding import Finding
    from playbooks.step_times import StepTimes

_PERIOD_S = 15.0
_WINDOW_S = 300.0  # of the steps that are looked at
_STILL = 0.1  # of the window's steps: whose lag ended before has recovered by itself
_OF_THE_HOST = frozenset(
    {Cause.CPU_CONTENTION, Cause.CPU_THROTTLING, Cause.SLOW_CORE, Cause.UNKNOWN}
)
"""Another host helps against these; what the program itself does, it does anywhere."""


def slow_now(times: StepTimes) -> list[Finding]:
    """The ranks that are certainly slow, still are, and would not be on another host. Pure."""
    from playbooks.straggler import find_stragglers

    if not times.steps.size:
        return []
    newest, window = int(times.steps[-1]), int(times.steps[-1] - times.steps[0])
    return [
        finding
        for finding in find_stragglers(times)
        if finding.confidence is Confidence.CERTAIN
        and finding.cause in _OF_THE_HOST
        and newest - finding.last_step <= _STILL * window
    ]


class StragglerWatch(Follower):
    """Looks at a run's latest steps."""

    def __init__(self, home: Path, run: RunDirectory, *, wanted: bool) -> None:
        super().__init__("stragglers", _PERIOD_S, wanted=wanted)
        self._home = home
        self._run = run
        self._since_ns = now_ns()

    def goes_on(self) -> bool:
        try:
            self.look()
        except OpsuiteError as error:
            narrate(f"warning: nobody looks for slow ranks: {error}")
            return False
        return True

    def look(self) -> None:
        """Once; what was told is judged anew from steps after it only.

        Raises:
            OpsuiteError: the records cannot be read.
        """
        from collectors.daemon.access import open_store
        from playbooks.step_times import load_step_times

        since_ns = max(self._since_ns, now_ns() - int(_WINDOW_S * 1e9))
        with open_store(self._home) as store:
            times = load_step_times(store, self._run.run_id, since_ns=since_ns)
        for finding in slow_now(times):
            self._tell(finding)
            self._since_ns = now_ns()

    def _tell(self, finding: Finding) -> None:
        from engine.supervision.control import ask

        [rank] = finding.ranks
        why = f"rank {rank} takes {finding.slowdown or 0:.2f} times as long: {finding.cause}"
        try:
            ask(self._run.path, "slow", rank=rank, why=why)
        except OpsuiteError as error:  # a driver that is being replaced, or the job is over
            narrate(f"note: the driver was not told that {why}: {error}")
