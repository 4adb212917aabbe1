"""Faults that another process does to a run, and the thread that does one when it is due."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from engine.faults.grammar import Fault
from engine.faults.keys import duration_s, key, one_step, whole_number
from engine.faults.rank_fault import misfit_of_step

if TYPE_CHECKING:
    from types import TracebackType

    from collectors.recorder import Recorder
    from engine.faults.marker import Marker
    from engine.faults.scene import Scene

_log = logging.getLogger("opsuite")
_LOOK_S = 0.002  # the save of a small model takes some 10 ms


@dataclass(frozen=True, kw_only=True)
class OutsideFault(Fault, ABC):
    """Struck by the process that drills."""

    struck: ClassVar[Literal["rank", "outside"]] = "outside"

    at_step: int = key("the step from which on it strikes", one_step)
    delay_ms: int = key(
        "how long after the step has begun, and what it strikes is there", whole_number, default=0
    )
    undone: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)

    @property
    def lasts_s(self) -> float:
        """How long until it is healed."""
        return 0.0

    def misfit(self, *, world_size: int, steps: int) -> str:
        return misfit_of_step(self.at_step, steps)

    def unavailable(self, scene: Scene) -> str:
        """Why it cannot be injected there now, or ""."""
        return ""

    def is_ready(self, scene: Scene) -> bool:
        """Whether what it strikes is there: until then it waits."""
        return True

    @abstractmethod
    def strike(self, scene: Scene) -> None:
        """Do it.

        Raises:
            OSError, OpsuiteError: it could not be done; to be healed all the same.
        """

    def heal(self, scene: Scene) -> None:
        """Undo what can be undone; once more does nothing."""
        self.undone.close()


@dataclass(frozen=True, kw_only=True)
class PassingFault(OutsideFault, ABC):
    """For some time."""

    seconds: float = key("how long it lasts", duration_s)

    @property
    def lasts_s(self) -> float:
        return self.seconds


class Injection:
    """One outside fault from its moment to its end, in a thread; a context manager.

    Args:
        recorder: told the truth.
        marker: of the fault, in the run's directory; its name is none of a rank's fault, which are
            numbers.

    Attributes:
        skipped: why the fault was not, or "".
    """

    def __init__(
        self, fault: OutsideFault, scene: Scene, *, recorder: Recorder, marker: Marker
    ) -> None:
        self.skipped = ""
        self._fault = fault
        self._scene = scene
        self._recorder = recorder
        self._marker = marker
        self._stop = threading.Event()
        self._struck = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"fault {fault.name}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Whatever has been struck is healed."""
        self._stop.set()
        self._thread.join()

    @property
    def struck(self) -> bool:
        """Whether it has been."""
        return self._struck.is_set()

    def wait_over(self, timeout_s: float) -> bool:
        """Whether it is over, healed or skipped, within that time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        if not self._wait_due():
            self.skipped = "the run ended before it was due"
        else:
            self.skipped = self._fault.unavailable(self._scene)
        if not self.skipped and self._marker.claim():
            self._strike()
        if self.skipped:
            self._record("fault.skipped", reason=self.skipped)

    def _wait_due(self) -> bool:
        while self._scene.step() < self._fault.at_step or not self._fault.is_ready(self._scene):
            if self._stop.wait(_LOOK_S):
                return False
        return not self._stop.wait(self._fault.delay_ms / 1e3)

    def _strike(self) -> None:
        self._record("fault.begin")
        try:
            self._fault.strike(self._scene)
        except Exception as error:  # noqa: BLE001 - a drill goes on, and says what it lacks
            self.skipped = f"it could not be struck: {error!r}"
        else:
            self._struck.set()
            self._stop.wait(self._fault.lasts_s)
        if self._heal() and not self.skipped:
            self._record("fault.end")

    def _heal(self) -> bool:
        try:
            self._fault.heal(self._scene)
        except Exception as error:  # noqa: BLE001 - in a thread; the record says that it goes on
            _log.warning("fault %s could not be healed: %s", self._fault, error)
            return False
        return True

    def _record(self, name: str, **more: Any) -> None:  # noqa: ANN401
        step = self._scene.step()
        self._recorder.event(name, value=step, attributes={**self._fault.attributes, **more})
