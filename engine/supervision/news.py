"""What has happened to a job lately, for people who follow it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.resilience.effects import Note

_KEPT = 200
_OF_A_DRIVER = 1_000_000  # numbers: those of the next driver come after all of this one's


class News:
    """A driver's notes, numbered."""

    def __init__(self, generation: int) -> None:
        self._number = generation * _OF_A_DRIVER
        self._items: deque[dict[str, Any]] = deque(maxlen=_KEPT)

    def add(self, note: Note) -> None:
        """Something has happened."""
        self._number += 1
        self._items.append({"number": self._number, "name": note.name, "facts": note.facts})

    def after(self, number: int) -> list[dict[str, Any]]:
        """What is still kept of what came after that number."""
        return [item for item in self._items if item["number"] > number]
