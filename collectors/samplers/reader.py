"""A sampler in a thread of its own: a driver that hangs holds up nobody else."""

from __future__ import annotations

import logging
import threading
from enum import Enum
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

from collectors.errors import OpsuiteError
from collectors.samplers.sampler import Absent
from collectors.samplers.standing import PRESENT, Standing, State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from collectors.samplers.sampler import Happening, Reading, Sampler

_log = logging.getLogger("opsuite")
_LONGEST_REASON = 300


class Answer(Protocol):
    """Takes what a reading gave, in the thread that read."""

    def __call__(
        self, name: str, standing: Standing, found: Sequence[Reading | Happening]
    ) -> None: ...


class _Order(Enum):
    READ = 1
    REST = 2
    END = 3


class Reader:
    """Reads one sampler when it is asked to.

    Args:
        make: gives a sampler; it is cheap, and looks at nothing yet.
        answer: told how each reading ended.
    """

    def __init__(self, make: Callable[[], Sampler], answer: Answer) -> None:
        self._make = make
        self._answer = answer
        self._sampler: Sampler | None = make()
        self.name = self._sampler.name
        self.period_s = self._sampler.period_s
        self._orders: SimpleQueue[_Order] = SimpleQueue()
        # Nobody waits for it at the end: it may never come back from its source.
        self._thread = threading.Thread(target=self._run, name=f"sample {self.name}", daemon=True)

    def read(self) -> None:
        """Have it read soon; ask for no other before that was answered."""
        if self._thread.ident is None:
            self._thread.start()
        self._orders.put(_Order.READ)

    def rest(self) -> None:
        """Let go of the source, until it is read again: then as if for the first time."""
        self._orders.put(_Order.REST)

    def end(self) -> None:
        """Let go of the source for good."""
        self._orders.put(_Order.END)

    def _run(self) -> None:
        while (order := self._orders.get()) is not _Order.END:
            if order is _Order.REST:
                self._let_go()
                continue
            self._sampler = self._sampler or self._make()
            standing, found = _outcome(self._sampler)
            self._answer(self.name, standing, found)
        self._let_go()

    def _let_go(self) -> None:
        sampler, self._sampler = self._sampler, None
        try:
            if sampler is not None:
                sampler.close()
        except Exception:  # noqa: BLE001 - a driver's last words must not end the thread
            _log.warning("the sampler %s did not close well", self.name, exc_info=True)


def _outcome(sampler: Sampler) -> tuple[Standing, Sequence[Reading | Happening]]:
    try:
        return PRESENT, sampler.read()
    except Absent as absent:
        return Standing(State.ABSENT, str(absent)), ()
    except Exception as error:  # noqa: BLE001 - the others go on; it is told, counted and retried
        _log.debug("the sampler %s failed", sampler.name, exc_info=error)
        return Standing(State.FAILING, _told(error)[:_LONGEST_REASON]), ()


def _told(error: Exception) -> str:
    if isinstance(error, OpsuiteError):
        return error.what
    return f"{type(error).__name__}: {error}"
