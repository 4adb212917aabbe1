"""When a run that does not move is looked at as hung: long enough for what this run does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from playbooks.hang.motion import Motion
from playbooks.hang.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from playbooks.hang.observation import Observation

_Places = frozenset[tuple[str, str, str]]

_MOST_GAP_S = 3.0  # between two looks: longer, and the watchdog itself was stopped
_WORTH_REMEMBERING_S = 2.0
_RECENT_S = 5.0  # what has moved since then is not about to be an alarm
_OWN_DUMPS_S = 10.0  # whoever is asked for stacks and dumps writes: that is no progress


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long nothing may move, in seconds.

    Attributes:
        idle_s: where a rank that has not come sleeps, is stopped or is gone.
        busy_s: where it is busy on its processor: it may be at work that nobody sees.
        long_s: before the first step, in a checkpoint, while something compiles.
        times: of the longest silence that went by so far, at least. Where all ranks are at the same
            places of their steps as they were in that silence (an evaluation that nobody sees), it
            counts in full, up to ``most_s``; at any other place up to ``elsewhere_s``, for the
            verdict of a hang may come later for what was once seen, but not because of a pause
            that has nothing to do with it. So a pause is told once at each place, at most.
    """

    idle_s: float = 15.0
    busy_s: float = 20.0
    long_s: float = 600.0
    times: float = 3.0
    most_s: float = 600.0
    elsewhere_s: float = 25.0

    @classmethod
    def of(cls, hang_s: float) -> Patience:
        """With ``OPSUITE_HANG_S``."""
        return cls(
            idle_s=hang_s,
            busy_s=hang_s + 5.0,
            long_s=max(cls.long_s, hang_s),
            elsewhere_s=hang_s + 10.0,
        )


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """Nothing has moved for too long: look closer.

    Attributes:
        busy: of the ranks of which it is known, whether they use their processors.
        excused: whether an alarm about this silence was excused before.
    """

    silence_s: float
    busy: Mapping[int, bool]
    excused: bool


@dataclass(frozen=True, kw_only=True)
class WentOn:
    """After an alarm, the run has gone on; it had not moved for ``silence_s``."""

    silence_s: float


@dataclass(frozen=True, kw_only=True)
class Overdue:
    """A step takes much longer than the others, though something moves."""

    step: int
    taken_s: float
    usual_s: float


class HangWatch:
    """Is shown all ranks of a host once a second; says when to worry."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._motions: dict[tuple[int, int], Motion] = {}
        self._looked_s: float | None = None
        self._now_s = 0.0  # runs on only while this process does
        self._since_s = 0.0
        self._longest_s: dict[_Places, float] = {}
        self._places: _Places = frozenset()
        self._plain = True  # this silence says what is usual
        self._alarmed = False
        self._excused_s = 0.0  # how long this silence may be by an excuse
        self._alarmed_s = -_OWN_DUMPS_S
        self._pace = Pace(0.0)

    @property
    def longest_s(self) -> float:
        """The longest silence after which the run went on, long work left out."""
        return max(self._longest_s.values(), default=0.0)

    def look(self, now_s: float, ranks: Sequence[Observation]) -> Alarm | WentOn | Overdue | None:
        """What is to be said, by the monotonic time ``now_s``."""
        gap_s = 0.0 if self._looked_s is None else now_s - self._looked_s
        self._looked_s = now_s
        self._now_s += min(max(gap_s, 0.0), _MOST_GAP_S)
        moved = self._see(ranks)
        here = [motion for motion in self._motions.values() if motion.seen.here]
        if not here:
            self._begin_silence()
            return None
        overdue = self._overdue(here)
        if moved:
            return self._end_silence() or overdue
        self._plain = self._plain and not self._may_take_long(here)
        self._places = _places_of(here)
        silence_s = self._now_s - self._since_s
        if not self._alarmed and silence_s >= self._allowed(here):
            self._alarmed, self._alarmed_s = True, self._now_s
            return Alarm(silence_s=silence_s, busy=self._busy(), excused=self._excused_s > 0)
        return overdue

    def excuse(self) -> None:
        """The alarm was none: this silence may be as long again as any."""
        self._alarmed = False
        self._excused_s = self._now_s - self._since_s + self._patience.long_s
        self._plain = False

    def _see(self, ranks: Sequence[Observation]) -> bool:
        """Take note of the ranks; whether one that is here has moved."""
        files = not self._alarmed and self._now_s - self._alarmed_s > _OWN_DUMPS_S
        moved = False
        known = {}
        for seen in ranks:
            key = (seen.rank, seen.pid)
            motion = self._motions.get(key)
            if motion is None:
                motion, came = Motion(seen, self._now_s), True
            else:
                came = motion.look(seen, self._now_s, files=files)
            known[key] = motion
            moved |= came and seen.here
        self._motions = known
        return moved

    def _end_silence(self) -> WentOn | None:
        silence_s = self._now_s - self._since_s
        told = self._alarmed
        if self._plain and silence_s >= _WORTH_REMEMBERING_S:
            before_s = self._longest_s.get(self._places, 0.0)
            self._longest_s[self._places] = max(before_s, silence_s)
        self._begin_silence()
        return WentOn(silence_s=silence_s) if told else None

    def _begin_silence(self) -> None:
        self._since_s = self._now_s
        self._plain, self._alarmed, self._excused_s = True, False, 0.0

    def _may_take_long(self, here: Sequence[Motion]) -> bool:
        return any(motion.works_long for motion in here) or not _all_began(here)

    def _allowed(self, here: Sequence[Motion]) -> float:
        """How long this silence may be."""
        patience = self._patience
        if any(motion.works_long for motion in here):
            return max(patience.long_s, self._excused_s)
        cannot = any(
            motion.seen.stopped or (not motion.seen.here and motion.seen.left is not True)
            for motion in self._motions.values()
        )
        if not _all_began(here) and not cannot:
            return max(patience.long_s, self._excused_s)
        suspects = [motion for motion in here if not motion.waits]
        busy = any(motion.busy(self._now_s) for motion in suspects)
        base = patience.busy_s if busy and not cannot else patience.idle_s
        here_s = self._longest_s.get(self._places, 0.0)
        usual_s = max(
            min(patience.times * here_s, patience.most_s),
            min(patience.times * self.longest_s, patience.elsewhere_s),
        )
        return max(base, usual_s, self._excused_s)

    def _busy(self) -> dict[int, bool]:
        found = {m.seen.rank: m.busy(self._now_s) for m in self._motions.values() if m.seen.here}
        return {rank: busy for rank, busy in found.items() if busy is not None}

    def _overdue(self, here: Sequence[Motion]) -> Overdue | None:
        boards = [motion.seen.board for motion in here if motion.seen.board is not None]
        if not boards or self._now_s - self._since_s > _RECENT_S:
            return None
        excused = self._may_take_long(here)
        done = max(board.steps_done for board in boards)
        taken_s = self._pace.look(done, self._now_s, excused=excused)
        if taken_s is None:
            return None
        step = max(board.step for board in boards)
        return Overdue(step=step, taken_s=taken_s, usual_s=self._pace.usual_s)


def _places_of(motions: Sequence[Motion]) -> _Places:
    """Where in their steps the ranks are, as their boards say: what they do, or wait in."""
    boards = [motion.seen.board for motion in motions if motion.seen.board is not None]
    return frozenset(
        (board.activity.name, "", "")
        if board.collective is None
        else (board.activity.name, board.collective.name, board.collective.where)
        for board in boards
    )


def _all_began(motions: Sequence[Motion]) -> bool:
    """Whether each has completed a step, or is not known to count them."""
    return all(m.seen.board is None or m.seen.board.steps_done > 0 for m in motions)
