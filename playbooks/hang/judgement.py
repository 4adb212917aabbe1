"""From what was seen of the ranks of a silent run to who holds it up."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from collectors.board import Activity
from playbooks.finding import Confidence
from playbooks.hang.culprit import describe
from playbooks.hang.long_work import LOADS
from playbooks.hang.mismatch import in_the_wrong_one
from playbooks.hang.place import place_of
from playbooks.hang.verdict import Cause, Excuse, Verdict
from playbooks.hang.wait_for import WaitGraph, waits_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from collectors.board import BoardState
    from collectors.samplers.last_collectives import FlightEntry
    from playbooks.hang.enqueued import Waits
    from playbooks.hang.observation import Observation, RankStack
    from playbooks.hang.place import Place
    from playbooks.hang.verdict import Culprit, Meeting

_NOBODY: Mapping[int, bool] = {}


def judge(
    observations: Sequence[Observation],
    stacks: Sequence[RankStack] = (),
    flights: Sequence[FlightEntry] = (),
    *,
    silence_s: float,
    busy: Mapping[int, bool] = _NOBODY,
    patient: bool = True,
) -> Verdict | Excuse:
    """Who never came, as far as this evidence goes.

    Args:
        observations: the ranks of this host; without boards stacks and flight recorders must do.
        stacks: with the text of their lines (:func:`playbooks.hang.sources.with_sources`).
        silence_s: how long nothing has moved.
        busy: of each rank, whether it has used its processor in that time.
        patient: whether long work, and ranks on other hosts, excuse the silence.
    """
    places = _places(stacks)
    roots = {stack.rank: stack.root for stack in stacks if stack.root and not stack.child}
    waits = waits_of(observations, places, flights, roots)
    suspects, confidence = _suspects(observations, waits, flights)
    culprits = describe(suspects, observations, places, waits, busy)
    if patient and (excuse := _excuse(observations, culprits)):
        return excuse
    meeting, waiting = _meeting(waits, {culprit.rank for culprit in culprits})
    return Verdict(
        silence_s=silence_s,
        step=_step(observations, culprits),
        cause=_common_cause(culprits),
        culprits=culprits,
        meeting=meeting,
        waiting=waiting,
        confidence=_confidence(culprits, confidence, told=_told(waits)),
    )


def _places(stacks: Sequence[RankStack]) -> dict[int, Place]:
    found = {}
    for rank in {stack.rank for stack in stacks}:
        place = place_of([stack for stack in stacks if stack.rank == rank])
        if place is not None:
            found[rank] = place
    return found


def _suspects(
    observations: Sequence[Observation], waits: Waits, flights: Sequence[FlightEntry]
) -> tuple[set[int], Confidence]:
    enqueued = {(entry.rank, entry.group): entry.sequence for entry in flights}
    unable = {each.rank for each in observations if not each.here or each.stopped}
    able_enqueued = {key: value for key, value in enqueued.items() if key[0] not in unable}
    graph = WaitGraph(waits, [each.rank for each in _expected(observations)], able_enqueued)
    roots = graph.roots()
    stuck = {rank for rank, found in waits.items() if any(wait.stuck for wait in found)}
    seen = {each.rank for each in observations}
    absent = (roots & seen) - waits.keys()
    if absent or stuck:
        return absent | stuck, Confidence.CERTAIN
    if roots and roots <= waits.keys():  # all are in collectives, and some are further than others
        wrong, sure = in_the_wrong_one(waits)
        return set(wrong) or roots, sure
    if roots:
        return roots, Confidence.LIKELY
    if not waits:
        return _without_waiting(observations), Confidence.LIKELY
    wrong, sure = in_the_wrong_one(waits)
    return set(wrong), sure


def _expected(observations: Sequence[Observation]) -> list[Observation]:
    """All but those that have ended well."""
    return [each for each in observations if each.left is not True]


def _without_waiting(observations: Sequence[Observation]) -> set[int]:
    """Nobody is known to wait in a collective: who cannot go on, or has not come to its backward
    pass as others have, which wait for gradients there; else everybody."""
    expected = _expected(observations)
    unable = {each.rank for each in expected if not each.here or each.stopped}
    if unable:
        return unable
    behind = {each.rank for each in expected if not _in_backward(each)}
    return behind or {each.rank for each in expected}


def _in_backward(each: Observation) -> bool:
    return each.board is not None and each.board.activity is Activity.BACKWARD


def _excuse(observations: Sequence[Observation], culprits: Sequence[Culprit]) -> Excuse | None:
    boards = {each.rank: each.board for each in observations}
    if culprits and all(culprit.cause is Cause.ELSEWHERE for culprit in culprits):
        return Excuse(rank=culprits[0].rank, what="is awaited, on a host not seen from here")
    for culprit in culprits:
        place, board = culprit.place, boards.get(culprit.rank)
        if place is None or culprit.cause is Cause.STOPPED:
            continue
        begun = board is not None and board.steps_done > 0
        if place.long_work and (place.long_work != LOADS or not begun):
            return Excuse(rank=culprit.rank, what=place.long_work, where=place.line)
        if culprit.busy and (place.evaluates or _evaluates(board)):
            return Excuse(rank=culprit.rank, what="evaluates", where=place.line)
    return None


def _evaluates(board: BoardState | None) -> bool:
    return board is not None and board.activity is Activity.EVALUATION


def _step(observations: Sequence[Observation], culprits: Sequence[Culprit]) -> int | None:
    """Of the culprits where they know it, else of anybody."""
    guilty = {culprit.rank for culprit in culprits}
    steps = {each.rank: each.board.step for each in observations if each.board is not None}
    known = [step for rank, step in steps.items() if step >= 0 and rank in guilty]
    return min(known or [step for step in steps.values() if step >= 0], default=None)


def _common_cause(culprits: Sequence[Culprit]) -> Cause:
    counted = Counter(culprit.cause for culprit in culprits)
    return counted.most_common(1)[0][0] if counted else Cause.UNKNOWN


def _meeting(waits: Waits, guilty: set[int]) -> tuple[Meeting | None, tuple[int, ...]]:
    """The collective in which most wait for the culprits, and who waits in it."""
    found = [wait for rank, each in waits.items() if rank not in guilty for wait in each]
    direct = [wait for wait in found if wait.members is not None and wait.members & guilty]
    chosen = direct or found or [wait for each in waits.values() for wait in each]
    if not chosen:
        return None, ()
    counted = Counter(wait.meeting for wait in chosen)
    meeting = max(counted, key=lambda each: (counted[each], each.sequence, each.group))
    return meeting, tuple(sorted(wait.rank for wait in chosen if wait.meeting == meeting))


def _told(waits: Waits) -> set[str]:
    return {wait.told for found in waits.values() for wait in found}


def _confidence(culprits: Sequence[Culprit], known: Confidence, *, told: set[str]) -> Confidence:
    """Less where the rank may still be at work, or where its own stack alone speaks."""
    if not culprits:
        return Confidence.POSSIBLE
    if known is not Confidence.CERTAIN:
        return known
    if any(culprit.busy for culprit in culprits) or any(
        culprit.cause is Cause.UNKNOWN for culprit in culprits
    ):
        return Confidence.LIKELY
    return Confidence.LIKELY if told == {"stack"} and len(culprits) > 1 else Confidence.CERTAIN
