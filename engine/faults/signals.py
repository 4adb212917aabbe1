"""Ranks that are killed, stopped, or that reach into memory which is not theirs."""

from __future__ import annotations

import ctypes
import os
import signal
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.faults.keys import key, whole_number
from engine.faults.rank_fault import StepFault, StrikeAtStep

if TYPE_CHECKING:
    from engine.faults.place import Place


@dataclass(frozen=True, kw_only=True)
class _SuddenFault(StepFault):
    """At a moment that can be chosen within the step."""

    delay_ms: int = key("how long after the step's beginning", whole_number, default=0)

    @abstractmethod
    def strike(self) -> None:
        """Do it to this process."""

    def hook(self, place: Place) -> StrikeAtStep:
        return StrikeAtStep(self, place, self.strike, delay_s=self.delay_ms / 1e3)


@dataclass(frozen=True, kw_only=True)
class SigKill(_SuddenFault):
    """The rank's process is killed by SIGKILL."""

    name: ClassVar[str] = "sigkill"

    def strike(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class SigSegv(_SuddenFault):
    """The rank reads memory at an address where it has none, and dies of SIGSEGV."""

    name: ClassVar[str] = "sigsegv"

    def strike(self) -> None:
        ctypes.string_at(1)  # not 0: ctypes refuses a null pointer in some versions


@dataclass(frozen=True, kw_only=True)
class SigStop(_SuddenFault):
    """The rank's process is stopped by SIGSTOP, until somebody continues or kills it."""

    name: ClassVar[str] = "sigstop"

    def strike(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
