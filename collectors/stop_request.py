"""A wish to end that a signal handler may utter.

``threading.Event.set`` may not be called there: where the handler interrupts the same thread inside
of ``Event.wait``, that thread holds the event's lock, and waits for itself for ever.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class StopRequest:
    """Made once, by a signal or a thread; every later wait returns at once."""

    def __init__(self) -> None:
        self._made = False
        self._wake: SimpleQueue[None] = SimpleQueue()  # `put` is reentrant, by its documentation

    def make(self) -> None:
        """From now on :meth:`wait` gives True."""
        self._made = True
        self._wake.put(None)

    @property
    def made(self) -> bool:
        """Whether it was."""
        return self._made

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until it is made, or for a time; whether it was made."""
        if not self._made:
            try:
                self._wake.get(timeout=None if timeout_s is None else max(0.0, timeout_s))
            except Empty:
                return self._made
            self._wake.put(None)  # for whoever else waits
        return self._made


def heeded(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Without those that this process was started to ignore, as by ``nohup``."""
    return [each for each in numbers if signal.getsignal(each) != signal.SIG_IGN]


@contextmanager
def made_by(request: StopRequest, *numbers: signal.Signals) -> Iterator[StopRequest]:
    """During the body these signals make ``request``. Of the main thread only."""
    before = {number: signal.signal(number, lambda *_: request.make()) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
