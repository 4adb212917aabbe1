"""What a daemon does again and again, each in a thread of its own, whatever fails meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from collectors.errors import OpsuiteError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("opsuite")
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 15.0


class Warnings:
    """What is wrong now, by what it concerns; told in the log when it begins and ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: dict[str, str] = {}

    def set(self, about: str, text: str) -> None:
        """Something is wrong with ``about``; the same text again is no news."""
        with self._lock:
            news = self._texts.get(about) != text
            self._texts[about] = text
        if news:
            _log.warning("%s: %s", about, text)

    def clear(self, about: str) -> None:
        """Nothing is wrong with ``about`` any more."""
        with self._lock:
            known = self._texts.pop(about, None)
        if known is not None:
            _log.warning("%s: well again", about)

    def list(self) -> list[str]:
        """All of now."""
        with self._lock:
            return [f"{about}: {text}" for about, text in sorted(self._texts.items())]


class Chore:
    """Calls ``act`` until it is stopped; a failure is told once, and retried ever later.

    Args:
        act: does it once, and says in how many seconds to do it again.
    """

    def __init__(self, name: str, act: Callable[[], float], warnings: Warnings) -> None:
        self._name = name
        self._act = act
        self._warnings = warnings
        self._changed = threading.Condition()
        self._wanted = False
        self._stopped = False
        self._ended_of_start = -1.0  # when the last call that succeeded was begun
        self._failing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin, at once."""
        self._thread.start()

    def stop(self) -> None:
        """Let the call in progress end, and make no other."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def ensure(self, *, since: float, timeout_s: float) -> bool:
        """Have a successful call that began after ``since`` (monotonic seconds), if need be now.

        Returns False where that was not done within ``timeout_s``, or fails at present.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._ended_of_start < since and not self._stopped:
                if self._failing or (left_s := deadline - time.monotonic()) <= 0:
                    return False
                self._wanted = True
                self._changed.notify_all()
                self._changed.wait(left_s)
            return not self._stopped

    def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stopped:
            begun = time.monotonic()
            with self._changed:
                self._wanted = False
            try:
                wait_s = self._act()
            except Exception as error:  # noqa: BLE001 - collection goes on; it is told and retried
                self._warnings.set(self._name, _told(error))
                wait_s, pause_s = pause_s, min(pause_s * 2, _LONGEST_PAUSE_S)
                self._report(None)
            else:
                self._warnings.clear(self._name)
                pause_s = _FIRST_PAUSE_S
                self._report(begun)
            self._wait(wait_s)

    def _report(self, begun: float | None) -> None:
        with self._changed:
            self._failing = begun is None
            if begun is not None:
                self._ended_of_start = begun
            self._changed.notify_all()

    def _wait(self, wait_s: float) -> None:
        """Until it is time, or somebody wants it now; who fails is not hurried."""
        deadline = time.monotonic() + wait_s
        with self._changed:
            while not self._stopped and not (self._wanted and not self._failing):
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return
                self._changed.wait(left_s)


def _told(error: Exception) -> str:
    if isinstance(error, OSError):
        error = StorageError.from_os_error(error, "collecting")
    if isinstance(error, OpsuiteError):
        return "; ".join(text for text in (error.what, error.where, error.remedy) if text)
    _log.debug("unexpected", exc_info=error)
    return f"{type(error).__name__}: {error}"
