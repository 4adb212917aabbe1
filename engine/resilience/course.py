"""The attempt that a job is at, as its driver knows it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from engine.resilience.messages import Place, Resume, Start

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from engine.resilience.messages import Beat, Ended
    from engine.resilience.recovery_point import RecoveryPoint


class Course:
    """Where its ranks are, what they were told, and how far they have come.

    Attributes:
        attempt: its number; 0: there was none yet.
        order: with which it was begun.
        well: hosts whose ranks have come to the end of the training, and since when.
    """

    def __init__(self) -> None:
        self.attempt = 0
        self._places: dict[str, Place] = {}
        self.order: Start | None = None
        self.well: dict[str, float] = {}
        self._began: set[str] = set()
        self._heard: dict[int, int] = {}

    def begin(
        self,
        attempt: int,
        generation: int,
        places: tuple[Place, ...],
        point: RecoveryPoint,
        sources: tuple[str, ...],
    ) -> Start:
        """A new attempt; gives the order for its hosts."""
        self.attempt, self._places = attempt, {place.host: place for place in places}
        self.well, self._began, self._heard = {}, set(), {}
        self.order = Start(
            generation=generation,
            attempt=attempt,
            places=places,
            step=point.step,
            resume=point.resume,
            sources=sources,
            origin=point.origin,
        )
        return self.order

    @property
    def places(self) -> tuple[Place, ...]:
        """Of its ranks, in their order."""
        return tuple(self._places.values())

    @property
    def hosts(self) -> tuple[str, ...]:
        """Those that have ranks, in the order of ranks."""
        return tuple(self._places)

    def has(self, host: str) -> bool:
        """Whether it has ranks."""
        return host in self._places

    def hosts_of(self, ranks: Collection[int]) -> tuple[str, ...]:
        """Those that have one of these ranks."""
        return tuple(each.host for each in self.places if any(r in each.ranks for r in ranks))

    def note_beginning(self, host: str) -> bool:
        """A host's ranks have begun; whether all have."""
        self._began.add(host)
        return self._began >= self._places.keys()

    def note_good_end(self, ended: Ended, now: float) -> bool:
        """A host's ranks have come to the end of the training; whether all have."""
        self.well.setdefault(ended.host, now)
        return self.well.keys() >= self._places.keys()

    def begun_by(self, beat: Beat) -> bool:
        """Whether a heartbeat shows that a host's ranks have begun."""
        return bool(beat.ranks) and all(state.step >= 0 for state in beat.ranks)

    @property
    def behind(self) -> tuple[str, ...]:
        """Hosts whose ranks have neither begun nor ended."""
        return tuple(h for h in self.hosts if h not in self._began and h not in self.well)

    def fresh(self, beat: Beat) -> Beat:
        """Without the steps that were heard of: they are told until that is confirmed."""
        heard = self._heard
        done = tuple(done for done in beat.done if done.step > heard.get(done.rank, -1))
        heard.update((done.rank, done.step) for done in done)
        return beat if len(done) == len(beat.done) else replace(beat, done=done)

    def to_json(self) -> dict[str, Any]:
        """For the next driver."""
        order = self.order
        return {
            "attempt": self.attempt,
            "places": [
                {"host": p.host, "first": p.first, "count": p.count, "address": p.address}
                for p in self.places
            ],
            "order": order and [order.step, str(order.resume), list(order.sources), order.origin],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], generation: int) -> Self:
        """Back from data; its order is now this driver's."""
        course = cls()
        course.attempt = data["attempt"]
        places = (Place(**each) for each in data["places"])
        course._places = {place.host: place for place in places}
        if data["order"]:
            step, resume, sources, origin = data["order"]
            course.order = Start(
                generation=generation,
                attempt=course.attempt,
                places=course.places,
                step=step,
                resume=Resume(resume),
                sources=tuple(sources),
                origin=origin,
            )
        return course
