"""The watchdog at work: looks once a second, and says who never came."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from collectors.errors import DataError, OpsuiteError
from collectors.manifest import ENDED
from collectors.run import RunDirectory
from opsuite.watchdog.ending import conclude
from opsuite.watchdog.orphans import Orphans
from opsuite.watchdog.ranks import LocalRanks
from opsuite.watchdog.voice import Voice
from playbooks.hang.patience import Alarm, HangWatch, Overdue, Patience, WentOn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from collectors.settings import Settings
    from collectors.stop_request import StopRequest
    from opsuite.watchdog.evidence import Evidence
    from opsuite.watchdog.records import Bundles
    from playbooks.hang.observation import Observation
    from playbooks.hang.verdict import Excuse, Verdict

_EVERY_S = 1.0
_SOON_S = 0.2  # once a rank has ended: the run's terminal waits for us
_GONE_S = 3.0  # all processes are away, without a word from one of them
_LEAVING_S = 10.0  # from the last words of a rank to the end of its process
_NOBODY_S = 600.0  # until the first rank begins, where nobody else owns the run
_MANIFEST_EVERY_S = 2.0


class Watchdog:
    """Watches the ranks of one run on this host until they have ended.

    Args:
        own: whether this process owns the run, and says how it has ended.
        stop: made by signals.
        launcher: process id of our parent, which the ranks must not outlive for long; None: of
            nobody.
    """

    def __init__(
        self,
        run: RunDirectory,
        settings: Settings,
        *,
        own: bool,
        stop: StopRequest,
        launcher: int | None = None,
    ) -> None:
        self._run = run
        self._home = run.path.parents[1]
        self._own = own
        self._stop = stop
        self._voice = Voice(run.logs)
        self._ranks = LocalRanks(run.path / "boards")
        self._orphans = Orphans(launcher, self._voice)
        self._watch = HangWatch(Patience.of(settings.hang_s))
        self._bundles: Bundles | None = None
        self._begun_s = time.monotonic()

    def run(self) -> None:
        """Until all ranks of this host have ended, or the run has."""
        over = Ending(self._run, own=self._own)
        while True:
            ranks = self._ranks.look()
            if over.reached(ranks, time.monotonic()) or self._stop.made:
                break
            self._look(ranks)
            self._orphans.look(
                (each.facts for each in self._ranks.ranks.values()), time.monotonic()
            )
            leaving = any(each.left is not None for each in ranks)
            self._stop.wait(_SOON_S if leaving else _EVERY_S)
        if self._bundles is not None:
            self._bundles.finish()
        if self._own and ranks and not any(each.here for each in ranks):
            conclude(self._home, self._run, ranks, self._voice)

    def _look(self, ranks: Sequence[Observation]) -> None:
        said = self._watch.look(time.monotonic(), ranks)
        if isinstance(said, Alarm):
            self._examine(said, ranks)
        elif isinstance(said, Overdue):
            self._keep_stacks(said, ranks)
        elif isinstance(said, WentOn):
            self._voice.say([f"run {self._run.run_id} went on after {said.silence_s:.0f} s"])

    def _examine(self, alarm: Alarm, ranks: Sequence[Observation]) -> None:
        """Something may be wrong: ask, judge, tell."""
        from opsuite.watchdog.evidence import gather
        from playbooks.hang.judgement import judge
        from playbooks.hang.verdict import Excuse

        began_s = time.monotonic()
        evidence = gather(self._ranks.ranks, ranks)
        judged = judge(
            ranks,
            evidence.stacks,
            evidence.flights,
            silence_s=alarm.silence_s + (time.monotonic() - began_s),
            busy=alarm.busy,
            patient=not alarm.excused,
        )
        if isinstance(judged, Excuse):
            self._excuse(judged, alarm)
        else:
            self._tell(judged, evidence)

    def _excuse(self, excuse: Excuse, alarm: Alarm) -> None:
        from playbooks.hang.report import excuse_line

        self._watch.excuse()
        line = f"opsuite: still working: {excuse_line(excuse, alarm.silence_s)}"
        self._voice.note([line])

    def _tell(self, verdict: Verdict, evidence: Evidence) -> None:
        from opsuite.watchdog.records import Bundles, record_flights, record_stacks
        from playbooks.hang.report import finding_of, verdict_lines
        from playbooks.publication import record_finding

        elapsed_s = time.time() - self._run.manifest.started_ns / 1e9
        finding = finding_of(verdict, self._run.run_id, elapsed_s=elapsed_s)
        self._attempt("the finding", lambda: record_finding(self._run, finding, "watchdog"))
        self._attempt("the stacks", lambda: record_stacks(self._run, evidence))
        self._attempt("the flight recorders", lambda: record_flights(self._run, evidence))
        if self._bundles is None:
            self._bundles = Bundles(self._home, self._run, lambda text: self._voice.say([text]))
        bundle = self._bundles.next()
        if evidence.ras:
            self._voice.note(evidence.ras.splitlines())
        lines = verdict_lines(verdict, self._run.run_id, bundle=str(bundle))
        self._voice.say([*evidence.notes, *lines])
        self._bundles.begin(bundle)

    def _keep_stacks(self, overdue: Overdue, ranks: Sequence[Observation]) -> None:
        from opsuite.watchdog.evidence import gather
        from opsuite.watchdog.records import record_stacks

        evidence = gather(self._ranks.ranks, ranks, flights=False)
        self._attempt("the stacks", lambda: record_stacks(self._run, evidence))
        self._voice.note(
            [
                f"step {overdue.step} takes {overdue.taken_s:.0f} s, and usually "
                f"{overdue.usual_s:.1f} s: stacks are recorded"
            ]
        )

    def _attempt(self, what: str, record: Callable[[], None]) -> None:
        """That a hang is told counts more than that everything of it is kept."""
        try:
            record()
        except OpsuiteError as error:
            self._voice.say([f"{what} could not be recorded: {error.what}"])


class Ending:
    """Whether the watch is over."""

    def __init__(self, run: RunDirectory, *, own: bool) -> None:
        self._run = run
        self._own = own
        self._looked_s = 0.0
        self._begun_s: float | None = None
        self._empty_s: float | None = None
        self._said_s: float | None = None

    def reached(self, ranks: Sequence[Observation], now_s: float) -> bool:
        """Whether nobody is left to watch, at the monotonic time ``now_s``."""
        self._begun_s = now_s if self._begun_s is None else self._begun_s
        if not ranks:
            return self._has_ended(now_s, lost=True) or (
                self._own and now_s - self._begun_s > _NOBODY_S
            )
        if any(each.here for each in ranks):
            self._empty_s = self._said_s = None
            return self._has_ended(now_s)
        if all(each.left is not None for each in ranks):
            self._said_s = now_s if self._said_s is None else self._said_s
            lives = any(each.alive for each in ranks)
            return not lives or now_s - self._said_s > _LEAVING_S
        self._empty_s = now_s if self._empty_s is None else self._empty_s
        return now_s - self._empty_s > _GONE_S

    def _has_ended(self, now_s: float, *, lost: bool = False) -> bool:
        """By its manifest, looked at now and then; ``lost``: also where its owner is gone."""
        if now_s - self._looked_s < _MANIFEST_EVERY_S:
            return False
        self._looked_s = now_s
        try:
            status = RunDirectory.load(self._run.path).manifest.status
        except DataError:
            return not self._run.path.exists()  # it is being written, or was removed
        return status in ENDED or (lost and status == "lost")
