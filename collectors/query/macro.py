"""What a table macro is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Macro:
    """A table macro: its name and parameters, one line about it, and the SELECT behind it.

    ``example`` are arguments that it can be called with.
    """

    name: str
    parameters: str
    about: str
    example: str = "'last'"
    select: str

    @property
    def call(self) -> str:
        """How it is written."""
        return f"{self.name}({self.parameters})"
