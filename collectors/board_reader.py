"""Reading the boards of other processes, whatever state these are in."""

from __future__ import annotations

import json
import mmap
import os
import struct
from dataclasses import fields
from typing import TYPE_CHECKING

from collectors.board import (
    FACTS,
    INTEGER,
    LIVE,
    MAGIC,
    PLACES,
    SIZE,
    SUFFIX,
    TEXT_PLACES,
    VERSION,
    Activity,
    BoardFacts,
    BoardState,
    InCollective,
    put,
)
from collectors.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

_ATTEMPTS = 20


class BoardReader:
    """Reads the board of another process.

    Raises:
        DataError: the file is no board, or of a newer opsuite.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            if os.fstat(descriptor).st_size != SIZE:
                raise DataError("no board, or not begun yet", where=str(path))
            self._memory = mmap.mmap(descriptor, SIZE)
        finally:
            os.close(descriptor)
        self.facts = _read_facts(path, self._memory)

    def read(self) -> BoardState:
        """What it says now."""
        memory, places = self._memory, PLACES
        value = {name: INTEGER.unpack_from(memory, offset)[0] for name, offset in places.items()}
        return BoardState(
            ticks=value["ticks"],
            ticked_ns=value["ticked_ns"],
            step=value["step"],
            steps_done=value["steps_done"],
            activity=_activity(value["activity"]),
            activity_ns=value["activity_ns"],
            collective=self._collective(),
            left={1: True, 2: False}.get(value["left"]),
            last_words=self._text("last_words"),
            asked=value["asked"],
            answered=value["answered"],
        )

    def ask(self) -> int:
        """Ask for a dump; gives the number that ``answered`` will be."""
        number = int(INTEGER.unpack_from(self._memory, PLACES["asked"])[0]) + 1
        put(self._memory, PLACES["asked"], number)
        return number

    def close(self) -> None:
        """Unmap it."""
        self._memory.close()

    def _collective(self) -> InCollective | None:
        memory, places = self._memory, PLACES
        for _ in range(_ATTEMPTS):
            before = INTEGER.unpack_from(memory, places["guard"])[0]
            value = struct.unpack_from("<qqqqqq", memory, places["entered"])
            texts = {name: self._text(name) for name in ("name", "group", "where")}
            after = INTEGER.unpack_from(memory, places["guard"])[0]
            if before == after and before % 2 == 0:
                break
        else:
            return None  # it enters and leaves all the time: none of them holds it up
        entered, sequence, since_ns, size_bytes, group_size, unusual = value
        if not entered:
            return None
        return InCollective(
            sequence=sequence,
            since_ns=since_ns,
            size_bytes=size_bytes,
            group_size=group_size,
            unusual=bool(unusual),
            **texts,
        )

    def _text(self, name: str) -> str:
        offset, room = TEXT_PLACES[name]
        (length,) = struct.unpack_from("<H", self._memory, offset)
        start = offset + 2
        return bytes(self._memory[start : start + min(length, room - 2)]).decode("utf-8", "replace")


def open_boards(directory: Path) -> list[BoardReader]:
    """The boards in ``directory``; what is none (yet) is left out."""
    readers = []
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        try:
            readers.append(BoardReader(path))
        except (DataError, OSError):
            continue  # just begun, or put there by somebody else
    return readers


def _read_facts(path: Path, memory: mmap.mmap) -> BoardFacts:
    version, length = struct.unpack_from("<II", memory, 8)
    if memory[:8] != MAGIC or version != VERSION or length > LIVE - FACTS:
        raise DataError("no board of this opsuite", where=str(path))
    try:
        facts = json.loads(memory[FACTS : FACTS + length])
        found = {field.name: facts[field.name] for field in fields(BoardFacts)}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DataError("a corrupt board", where=str(path)) from None
    wanted = {field.name: int if field.type == "int" else str for field in fields(BoardFacts)}
    if any(type(found[name]) is not kind for name, kind in wanted.items()):
        raise DataError("a corrupt board", where=str(path))
    return BoardFacts(**found)


def _activity(value: int) -> Activity:
    try:
        return Activity(value)
    except ValueError:
        return Activity.NONE
