"""The attached look as a command: in order, and with a run that ends properly however it ends."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from collectors.bundle.writer import SUFFIX
from collectors.errors import OpsuiteError
from collectors.samplers.stack_groups import StackGroup, UnreadStack, from_entries, group_stacks
from collectors.settings import Settings
from opsuite.attaching.collectives import Collectives, ask_for_collectives
from opsuite.attaching.conclusion import Conclusion, State, conclude
from opsuite.attaching.host import HostSamples
from opsuite.attaching.recording import ROLE, Recording, entries_of
from opsuite.attaching.session import Gathered, find, gather
from opsuite.watchdog.records import write_bundle_of
from playbooks.hang.report import finding_of
from playbooks.publication import record_finding

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from playbooks.finding import Finding

_EXIT_CODES = {State.STUCK: 1, State.UNREAD: 3}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What ``opsuite attach`` says.

    Attributes:
        bundle: where the run lies in one file; None: it was not written.
        groups, unread: the stacks of the last look, merged.
    """

    run_id: str
    conclusion: Conclusion
    gathered: Gathered
    collectives: Collectives
    findings: tuple[Finding, ...]
    groups: tuple[StackGroup, ...]
    unread: tuple[UnreadStack, ...]
    bundle: Path | None

    @property
    def exit_code(self) -> int:
        """1: something was found, 3: nothing could be seen, else 0."""
        return _EXIT_CODES.get(self.conclusion.state, 0)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        targets = self.gathered.targets
        return {
            "run_id": self.run_id,
            "state": str(self.conclusion.state),
            "answer": list(self.conclusion.lines),
            "world_size": targets.world_size,
            "ranks": [self._rank(index) for index in range(len(targets.ranks))],
            "missing_ranks": list(targets.missing),
            "ended": self.gathered.ended,
            "refused": {str(pid): reason for pid, reason in targets.refused.items()},
            "notes": list(targets.notes),
            "missing": [cost.to_json() for cost in self.gathered.costs],
            "findings": [finding.to_json() for finding in self.findings],
            "stacks": [asdict(group) for group in self.groups],
            "flight_recorder": [asdict(entry) for entry in self.collectives.entries],
            "bundle": str(self.bundle) if self.bundle else None,
        }

    def _rank(self, index: int) -> dict[str, Any]:
        target, motion = self.gathered.targets.ranks[index], self.conclusion.motions[index]
        place = self.conclusion.places.get(target.rank)
        return {
            **asdict(motion),
            "motion": str(motion.motion),
            "pid": target.pid,
            "doing": None if place is None else str(place.doing),
            "line": None if place is None else place.line or None,
        }


def attach_to(
    pids: Sequence[int],
    *,
    for_s: float,
    name: str | None,
    command: list[str],
    narrate: Callable[[str], None],
) -> Answer:
    """Look at the ranks among ``pids`` and below them for ``for_s`` seconds.

    Raises:
        Unreachable: there is no rank; UsageError: they are of several jobs.
        StorageError: the run cannot be written.
        KeyboardInterrupt: it was interrupted; what was gathered is kept.
    """
    home = Settings.from_environment().home
    targets = find(pids)
    for pid, reason in targets.refused.items():
        narrate(f"process {pid} is passed over: {reason}")
    for note in targets.notes:
        narrate(note)
    recording = Recording.begin(home, targets, name, command)
    run_id = recording.run.run_id
    narrate(f"run {run_id}: looking at {len(targets.ranks)} ranks for {for_s:g} s")
    try:
        answer = _look(recording, Gathered(targets=targets), home, for_s, narrate)
    except KeyboardInterrupt:
        recording.finish("interrupted", 130)
        narrate(f"what was gathered is kept: opsuite runs show {run_id}")
        raise
    except BaseException:
        recording.finish("failed", 1)
        raise
    return answer


def _look(
    recording: Recording,
    gathered: Gathered,
    home: Path,
    for_s: float,
    narrate: Callable[[str], None],
) -> Answer:
    run, began_s = recording.run, time.monotonic()
    with HostSamples(home, run, gathered.targets) as host:
        gather(recording, gathered, for_s, tick=host.tick, narrate=narrate)
        costs = host.costs()
    collectives = ask_for_collectives(recording, gathered.targets)
    for cost in [*costs, *collectives.costs]:
        gathered.costs.append(cost)
        narrate(f"missing: {cost}")
    conclusion = conclude(gathered, collectives.entries)
    findings: tuple[Finding, ...] = ()
    kept: Path | None = None
    recording.close()
    elapsed_s = time.monotonic() - began_s
    if conclusion.verdict is not None:
        finding = finding_of(conclusion.verdict, run.run_id, elapsed_s=elapsed_s)
        findings = (finding,)
        _try(lambda: record_finding(run, finding, ROLE), "stored", narrate)
    recording.finish("finished", _EXIT_CODES.get(conclusion.state, 0))
    if findings:
        path = run.path / f"hang-1{SUFFIX}"
        _try(lambda: write_bundle_of(home, run, path), "bundled", narrate)
        kept = path if path.exists() else None
    groups, unread = _merged(gathered, {rank for each in findings for rank in each.ranks})
    return Answer(
        run_id=run.run_id,
        conclusion=conclusion,
        gathered=gathered,
        collectives=collectives,
        findings=findings,
        groups=groups,
        unread=unread,
        bundle=kept,
    )


def _try(keep: Callable[[], None], what: str, narrate: Callable[[str], None]) -> None:
    """That something is found counts more than that it is kept."""
    try:
        keep()
    except OpsuiteError as error:
        narrate(f"the findings are not {what}: {error}")


def _merged(
    gathered: Gathered, guilty: set[int]
) -> tuple[tuple[StackGroup, ...], tuple[UnreadStack, ...]]:
    """Equal stacks of the last look together, those of guilty ranks first."""
    look = gathered.whole_look
    entries = [entry for sighting in look.ranks.values() for entry in entries_of(sighting)]
    stacks, unread = from_entries(entries)
    groups = group_stacks(stacks)
    named = [{holder.rank for holder in group.holders} for group in groups]
    order = sorted(range(len(groups)), key=lambda index: not named[index] & guilty)
    return tuple(groups[index] for index in order), tuple(unread)
