"""Jobs in the order of their keys."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.scheduling.job import Job


class Ranking:
    """A sorted list: thousands wait but few change, so that moving a list's end costs least.

    Keys are tuples that sort, and no two jobs may have equal ones (end them with a number).
    Whoever iterates must not change it meanwhile.
    """

    def __init__(self) -> None:
        self._keys: list[Any] = []
        self._jobs: list[Job] = []
        self._key_of: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        """The least key first."""
        return iter(self._jobs)

    def __contains__(self, job: Job) -> bool:
        return job.number in self._key_of

    def key(self, job: Job) -> Any:  # noqa: ANN401 - any tuple that sorts
        """KeyError of a job that is not here."""
        return self._key_of[job.number]

    def index(self, job: Job) -> int:
        """How many come before it."""
        return bisect_left(self._keys, self._key_of[job.number])

    def add(self, job: Job, key: Any) -> None:  # noqa: ANN401
        """A job that is not here yet."""
        assert job.number not in self._key_of, "numbers are unique"
        at = bisect_left(self._keys, key)
        self._keys.insert(at, key)
        self._jobs.insert(at, job)
        self._key_of[job.number] = key

    def remove(self, job: Job) -> None:
        """KeyError of a job that is not here."""
        at = bisect_left(self._keys, self._key_of.pop(job.number))
        assert self._jobs[at] is job, "keys are unique"
        del self._keys[at], self._jobs[at]

    def update(self, job: Job, key: Any) -> None:  # noqa: ANN401
        """The key of a job that is here is another now."""
        keys, old = self._keys, self._key_of[job.number]
        if key == old:
            return
        at = bisect_left(keys, old)
        if (at and keys[at - 1] > key) or (at + 1 < len(keys) and keys[at + 1] < key):
            self.remove(job)
            self.add(job, key)
        else:
            keys[at] = self._key_of[job.number] = key
