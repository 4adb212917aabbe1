"""A thread that looks at a run again and again, while it is launched here."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class Follower(ABC):
    """Looks every ``period_s`` while its body runs, if that is wanted."""

    def __init__(self, name: str, period_s: float, *, wanted: bool) -> None:
        self._period_s = period_s
        self._wanted = wanted
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=name, daemon=True)

    @abstractmethod
    def goes_on(self) -> bool:
        """Look once; whether to look again."""

    def __enter__(self) -> Self:
        if self._wanted:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._wanted:
            self._thread.join()

    def _follow(self) -> None:
        while not self._over.wait(self._period_s) and self.goes_on():
            pass
