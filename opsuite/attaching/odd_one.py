"""Of two ranks in different collectives, the one that is more likely in the wrong one.

Two stacks alone cannot tell: either may be right. But code that all ranks share ends in the
backward pass or goes on to later lines, and what one rank does alone is called before that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from playbooks.finding import Confidence
from playbooks.hang.verdict import Cause

if TYPE_CHECKING:
    from collections.abc import Sequence

    from playbooks.hang.observation import Frame, RankStack
    from playbooks.hang.verdict import Verdict

_BACKWARD = "_engine_run_backward"


def of_two_who_disagree(verdict: Verdict, stacks: Sequence[RankStack]) -> Verdict:
    """The same verdict, with one culprit where it has two of whom neither is known to be wrong."""
    own = {stack.rank: stack.frames for stack in stacks if not stack.child}
    culprits = verdict.culprits
    ranks = {culprit.rank for culprit in culprits}
    two = len(culprits) == 2 and verdict.cause is Cause.MISMATCH
    if not two or not set(verdict.waiting) <= ranks <= own.keys():
        return verdict
    first, second = culprits
    chosen = _suspect(own[first.rank], own[second.rank])
    if chosen is None:
        return verdict
    wrong, right = (first, second) if chosen == 0 else (second, first)
    return replace(
        verdict,
        culprits=(wrong,),
        waiting=(right.rank,),
        meeting=right.meeting,
        confidence=Confidence.POSSIBLE,
    )


def _suspect(first: Sequence[Frame], second: Sequence[Frame]) -> int | None:
    """Which of the two stacks is the odd one: 0, 1, or None."""
    backward = [any(_name(frame) == _BACKWARD for frame in each) for each in (first, second)]
    if backward[0] != backward[1]:
        return backward.index(False)
    for ours, theirs in zip(reversed(first), reversed(second), strict=False):
        if (ours.file, ours.function) != (theirs.file, theirs.function):
            break
        if ours.line != theirs.line:
            return 0 if ours.line < theirs.line else 1
    return None


def _name(frame: Frame) -> str:
    return frame.function.rpartition(".")[2]
