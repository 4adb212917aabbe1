"""When each sampler is read, and what is told of how that goes. Pure: the clock is passed in."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from collectors.samplers.standing import UNKNOWN, News, Standing, State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from collectors.samplers.sampler import Happening

ABSENT_S = 60.0
"""How often a source that is not there is looked for."""
LONGEST_PAUSE_S = 60.0
OVERDUE_S = 10.0
"""How long a reading may take before it is told of."""


@dataclass(kw_only=True)
class _Course:
    """How it goes with one sampler."""

    period_s: float
    due_s: float = -math.inf
    begun_s: float | None = None  # of the reading in progress
    standing: Standing = UNKNOWN
    news: News = field(default_factory=News)
    failures: int = 0
    in_a_row: int = 0


class Schedule:
    """The order of the day for samplers, each by its name. Times are monotonic seconds."""

    def __init__(self, periods_s: Mapping[str, float]) -> None:
        self._courses = {name: _Course(period_s=period) for name, period in periods_s.items()}

    def restart(self, now_s: float) -> None:
        """All are due, and nothing of them is known, as in the beginning; failures stay counted."""
        for course in self._courses.values():
            course.due_s = now_s
            course.standing, course.news, course.in_a_row = UNKNOWN, News(), 0

    def due(self, now_s: float) -> list[str]:
        """Who is to be read now; a sampler whose reading is in progress is not.

        The next time is counted from when it was due, so that samplers of one period keep step.
        """
        found = []
        for name, course in self._courses.items():
            if course.begun_s is not None or course.due_s > now_s:
                continue
            behind_s = now_s - course.due_s
            whole = math.floor(behind_s / course.period_s) if math.isfinite(behind_s) else 0
            begun_s = course.due_s if math.isfinite(behind_s) else now_s
            course.due_s = begun_s + (whole + 1) * course.period_s
            course.begun_s = now_s
            found.append(name)
        return found

    def wait_s(self, now_s: float) -> float:
        """How long until somebody is due, or overdue."""
        moments = [
            course.due_s if course.begun_s is None else course.begun_s + OVERDUE_S
            for course in self._courses.values()
            if course.begun_s is None or course.begun_s + OVERDUE_S > now_s
        ]
        return max(min(moments, default=math.inf) - now_s, 0.0)

    def answered(self, name: str, standing: Standing, now_s: float) -> Happening | None:
        """A reading ended so; what is to be told of it, if anything."""
        course = self._courses[name]
        course.begun_s = None
        course.in_a_row = course.in_a_row + 1 if standing.state is State.FAILING else 0
        if standing.state is State.ABSENT:
            course.due_s = now_s + ABSENT_S
        elif standing.state is State.FAILING:
            pause_s = min(course.period_s * 2.0 ** min(course.in_a_row, 16), LONGEST_PAUSE_S)
            course.due_s = max(now_s + pause_s, course.due_s)
        return self._stands(name, course, standing, now_s)

    def overdue(self, now_s: float) -> list[Happening]:
        """What is to be told of readings that do not end; they are waited for all the same."""
        told = []
        for name, course in self._courses.items():
            if course.begun_s is not None and now_s - course.begun_s >= OVERDUE_S:
                hanging = Standing(State.FAILING, f"it has not answered for {OVERDUE_S:.0f} s")
                if course.standing != hanging:
                    told.append(self._stands(name, course, hanging, now_s))
        return [one for one in told if one is not None]

    def _stands(
        self, name: str, course: _Course, standing: Standing, now_s: float
    ) -> Happening | None:
        course.standing = standing
        course.failures += standing.state is State.FAILING
        if not course.news.is_new(standing, now_s):
            return None
        return standing.happening(name, failures=course.failures)

    def standings(self) -> dict[str, Standing]:
        """How each of them stands."""
        return {name: course.standing for name, course in self._courses.items()}

    def happenings(self) -> list[Happening]:
        """What tells somebody new how all of them stand; nothing of those not read yet."""
        return [
            course.standing.happening(name, failures=course.failures)
            for name, course in self._courses.items()
            if course.standing.state is not State.UNKNOWN
        ]

    def status(self) -> list[dict[str, Any]]:
        """One entry a sampler, as JSON values."""
        return [
            {
                "name": name,
                "state": course.standing.state.value,
                "reason": course.standing.reason,
                "failures": course.failures,
                "period_s": course.period_s,
            }
            for name, course in self._courses.items()
        ]
