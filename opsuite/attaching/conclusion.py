"""What is concluded from an attached look: the job moves, is stuck, or cannot be told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from collectors.membership import group_name
from opsuite.attaching.evidence import observations_of, places_of, stacks_of
from opsuite.attaching.motion import Motion, RankMotion
from opsuite.attaching.odd_one import of_two_who_disagree
from opsuite.attaching.pace import slowest
from playbooks.finding import Confidence
from playbooks.hang.judgement import judge
from playbooks.hang.place import Doing
from playbooks.hang.report import culprit_lines, excuse_line
from playbooks.hang.sources import with_sources
from playbooks.hang.verdict import Cause, Excuse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from collectors.samplers.last_collectives import FlightEntry
    from opsuite.attaching.session import Gathered
    from playbooks.hang.place import Place
    from playbooks.hang.verdict import Verdict

_SURE_S = 15.0  # as long as a watched run may stand still
_WAITS = (Doing.COLLECTIVE, Doing.DEVICE)
_POLLS = 0.02  # of a core: who uses less and is never seen elsewhere, waits and asks now and then


class State(StrEnum):
    """How the job is."""

    MOVING = "moving"
    STUCK = "stuck"
    LONG_WORK = "long work"
    """A rank compiles, saves, evaluates or the like: no verdict."""
    BUSY = "busy"
    """A rank computes at one place, and the others wait for it."""
    UNSURE = "unsure"
    UNREAD = "unread"
    """No stack could be read."""
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """What there is to say.

    Attributes:
        lines: of the answer, the headline first.
        places: where each rank was in the last look, as far as it could be read.
        verdict: who never came; None where the job is not stuck.
    """

    state: State
    lines: tuple[str, ...]
    motions: tuple[RankMotion, ...]
    places: Mapping[int, Place]
    verdict: Verdict | None = None


def conclude(gathered: Gathered, flights: Sequence[FlightEntry] = ()) -> Conclusion:
    """Look at everything that was gathered."""
    stacks = with_sources(stacks_of(gathered.whole_look, gathered.roots))
    places = places_of(stacks)
    motions = tuple(gathered.motions())
    state = _state(motions, places, gathered.targets.missing)
    if state not in (State.STUCK, State.BUSY):
        lines = _lines(state, motions, gathered)
        return Conclusion(state=state, lines=lines, motions=motions, places=places)
    silence_s = min((motion.for_s for motion in motions if motion.looks > 1), default=0.0)
    judged = judge(
        observations_of(gathered.targets, gathered.whole_look),
        stacks,
        flights,
        silence_s=silence_s,
        busy={motion.rank: motion.motion is Motion.BUSY for motion in motions},
    )
    if isinstance(judged, Excuse):
        lines = (excuse_line(judged, silence_s), "so this is no verdict: look again later")
        return Conclusion(state=State.LONG_WORK, lines=lines, motions=motions, places=places)
    verdict = _as_sure_as_it_can_be(of_two_who_disagree(judged, stacks))
    busy = [one.rank for one in _others(motions, places) if one.motion is Motion.BUSY]
    stuck = state is State.STUCK
    lines = _stuck_lines(verdict, gathered) if stuck else _busy_lines(busy, places)
    return Conclusion(
        state=state,
        lines=lines,
        motions=motions,
        places=places,
        verdict=verdict if stuck else None,
    )


def _as_sure_as_it_can_be(verdict: Verdict) -> Verdict:
    """A short look may fall into a long step; who is gone or stopped is so in any case."""
    plain = verdict.cause in (Cause.GONE, Cause.STOPPED)
    if plain or verdict.silence_s >= _SURE_S or verdict.confidence is not Confidence.CERTAIN:
        return verdict
    return replace(verdict, confidence=Confidence.LIKELY)


def _state(
    motions: Sequence[RankMotion], places: Mapping[int, Place], missing: Sequence[int]
) -> State:
    alive = [one for one in motions if one.motion is not Motion.ENDED]
    if not alive:
        return State.ENDED
    if any(one.motion is Motion.MOVING for one in alive):
        return State.MOVING
    if all(one.motion is Motion.UNREAD for one in alive):
        return State.UNREAD
    if missing or len(alive) < len(motions) or any(one.stopped for one in alive):
        return State.STUCK
    return _state_of_all(alive, _others(motions, places))


def _state_of_all(alive: Sequence[RankMotion], others: Sequence[RankMotion]) -> State:
    """All are there, and none was seen to move; ``others`` do not wait in a collective."""
    if any(_may_move(one) for one in others):
        return State.UNSURE
    if any(one.motion is Motion.BUSY for one in others):
        return State.BUSY
    awake = any(one.motion is Motion.BUSY or _may_move(one) for one in alive)
    return State.STUCK if others or not awake else State.UNSURE


def _others(motions: Sequence[RankMotion], places: Mapping[int, Place]) -> list[RankMotion]:
    """Those that are alive and do not wait in a collective."""
    return [
        one
        for one in motions
        if one.motion is not Motion.ENDED and (one.stopped or not _waits(places.get(one.rank)))
    ]


def _waits(place: Place | None) -> bool:
    return place is not None and place.doing in _WAITS and not place.long_work


def _may_move(one: RankMotion) -> bool:
    return one.motion is Motion.DOUBTFUL and (one.main_cores or 0.0) >= _POLLS


def _lines(state: State, motions: Sequence[RankMotion], gathered: Gathered) -> tuple[str, ...]:
    moving = [one for one in motions if one.motion is Motion.MOVING]
    if state is State.MOVING:
        slow = slowest(gathered)
        stopped = [one.rank for one in motions if one.stopped]
        lines = [f"moving: {len(moving)} of {len(motions)} ranks change"]
        lines += [f"stopped by a signal or a debugger: {_ranks(stopped)}"] if stopped else []
        return (*lines, slow) if slow else tuple(lines)
    if state is State.ENDED:
        return ("all ranks ended while attached",)
    if state is State.UNREAD:
        return ("no stack could be read, so nothing can be said: see what is missing",)
    longer = "look longer, with --for 60s: slow steps look like this"
    return ("not sure: no rank was seen at another place, but not all of them sleep", longer)


def _busy_lines(busy: Sequence[int], places: Mapping[int, Place]) -> tuple[str, ...]:
    lines = [f"busy: {_ranks(busy)} at one place: a long operation, or a loop without end"]
    for rank in busy:
        place = places.get(rank)
        lines += [f"rank {rank} {place.doing} at {place.line}"] if place and place.line else []
    return (*lines, "look longer, with --for 60s, or again later")


def _stuck_lines(verdict: Verdict, gathered: Gathered) -> tuple[str, ...]:
    headline = f"stuck: nothing has moved for {verdict.silence_s:.0f} s"
    seen = len(gathered.targets.ranks) + len(gathered.targets.missing)
    elsewhere = gathered.targets.world_size - seen
    if not verdict.culprits and elsewhere > 0:
        return (
            headline,
            f"all {seen} ranks that were looked at wait in a collective: who does not come is "
            f"among the {elsewhere} other ranks; attach to these",
        )
    return (headline, *culprit_lines(verdict))


def _ranks(ranks: Iterable[int]) -> str:
    numbers = sorted(ranks)
    return f"rank{'s' if len(numbers) > 1 else ''} {group_name('', numbers)[1:-1]}"
