"""Sources that have parts, of which each can fail by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.errors import DataError
from collectors.samplers.sampler import Absent
from collectors.samplers.standing import PRESENT, UNKNOWN, News, Standing, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from collectors.samplers.sampler import Happening, Reading


class Parts:
    """Reads the parts of a source one by one, and says of each once that it cannot be read."""

    def __init__(self, sampler: str) -> None:
        self._sampler = sampler
        self._news: dict[str, News] = {}

    def read(
        self, parts: Mapping[str, Callable[[], Iterable[Reading | Happening]]], now_s: float
    ) -> list[Reading | Happening]:
        """What all parts say that say something.

        Raises:
            Absent, DataError, OSError: none of them does; what the first one says of it.
        """
        found: list[Reading | Happening] = []
        troubles: list[Exception] = []
        for part, read in parts.items():
            standing = PRESENT
            try:
                found += read()
            except Absent as absent:
                standing = Standing(State.ABSENT, str(absent))
                troubles.append(absent)
            except (DataError, OSError) as error:
                standing = Standing(State.FAILING, str(error))
                troubles.append(error)
            found += self._told(part, standing, now_s)
        for gone in self._news.keys() - parts.keys():
            del self._news[gone]
        if troubles and len(troubles) == len(parts):
            raise troubles[0]
        return found

    def _told(self, part: str, standing: Standing, now_s: float) -> list[Happening]:
        news = self._news.setdefault(part, News())
        if standing is PRESENT and news.last is UNKNOWN:
            return []  # that all is well goes without saying
        if not news.is_new(standing, now_s):
            return []
        return [standing.happening(self._sampler, part=part)]
