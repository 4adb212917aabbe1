"""The board of a process: what it does just now, in a mapped page that others can read.

Records say what has ended; the board says what goes on, also of a process that is stopped, holds
its interpreter's lock, or was killed. One file a process, ``<run>/boards/<process>.board``.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from collectors.clock import boot_id, host_name, now_ns, process_space
from collectors.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

SUFFIX = ".board"
SIZE = 4096
MAGIC = b"OPSBOARD"
VERSION = 1
FACTS, LIVE, TEXTS = 16, 1024, 1280
"""Where on the page the facts, the integers and the texts begin."""


class Activity(IntEnum):
    """What a rank is doing, by what it called last."""

    NONE = 0
    DATA = 1
    FORWARD = 2
    BACKWARD = 3
    OPTIMIZER = 4
    CHECKPOINT = 5
    COMPILE = 6
    EVALUATION = 7
    DECLARED = 8
    """Long work that the trainer announced (:func:`opsuite.busy`)."""


LONG_WORK = (Activity.CHECKPOINT, Activity.COMPILE, Activity.DECLARED)
"""What may take minutes without anything being wrong."""


@dataclass(frozen=True, kw_only=True)
class BoardFacts:
    """Who writes a board; it does not change.

    Attributes:
        process: key of the process.
        since_ns: monotonic; tells the process from a later one of the same number.
        space: what ``pid`` means something in (:func:`collectors.clock.process_space`).
        stacks_signal: the signal that makes it write its stacks into ``stacks_file``; 0: none.
        flight_file: where it writes its flight recorder when asked; "": it has none.
    """

    process: str
    rank: int
    world_size: int
    host: str
    pid: int
    boot: str
    space: str
    since_ns: int
    stacks_signal: int = 0
    stacks_file: str = ""
    flight_file: str = ""


@dataclass(frozen=True, kw_only=True)
class InCollective:
    """A collective that a rank has entered and not left.

    Attributes:
        group: axis and members, such as ``dp[0-3]``.
        group_size: 0: unknown.
        where: the line that called it, such as ``train.py:41``; "": not known.
        unusual: whether the rank did something else at this place of its step before.
    """

    name: str
    group: str
    group_size: int
    sequence: int
    size_bytes: int
    since_ns: int
    where: str
    unusual: bool


@dataclass(frozen=True, kw_only=True)
class BoardState:
    """What a board says at one moment; times are of its host's monotonic clock.

    Attributes:
        ticks: signs of progress so far (anything that a hook saw); ``ticked_ns``: the last.
        step: the step it is in, -1: none yet; ``steps_done``: how many it has completed.
        activity, activity_ns: what it does, since when.
        collective: the one it is in.
        left: None: it is here; True: it ended well; False: by an error, told in ``last_words``.
        asked, answered: how often a dump was asked for, and the last that was written.
    """

    ticks: int
    ticked_ns: int
    step: int
    steps_done: int
    activity: Activity
    activity_ns: int
    collective: InCollective | None
    left: bool | None
    last_words: str
    asked: int
    answered: int


# Each is one aligned store, which readers see whole; the collective's fields together are guarded
# by a counter that is odd while they change.
PLACES = {
    name: LIVE + 8 * index
    for index, name in enumerate(
        (
            "ticks",
            "ticked_ns",
            "step",
            "steps_done",
            "activity",
            "activity_ns",
            "left",
            "asked",
            "answered",
            "guard",
            "entered",
            "sequence",
            "since_ns",
            "size_bytes",
            "group_size",
            "unusual",
        )
    )
}
TEXT_PLACES = {  # offset, bytes with the length in front
    "name": (TEXTS, 64),
    "group": (TEXTS + 64, 192),
    "where": (TEXTS + 256, 256),
    "last_words": (TEXTS + 512, 2048),
}
INTEGER = struct.Struct("<q")
put = INTEGER.pack_into
_TICKED = struct.Struct("<qq").pack_into
_ACTIVITY = struct.Struct("<qq").pack_into
_STEP = struct.Struct("<qq").pack_into
_COLLECTIVE = struct.Struct("<qqqqqq").pack_into


class Board:
    """Written by the one process that made it; a forked child writes nothing.

    Raises:
        StorageError: the file cannot be made.
    """

    def __init__(self, directory: Path, facts: BoardFacts) -> None:
        text = json.dumps(asdict(facts)).encode()
        if len(text) > LIVE - FACTS:
            raise StorageError("the board's facts are too long", where=facts.process)
        self.path = directory / f"{facts.process}{SUFFIX}"
        self._ticks = 0
        self._entries = 0
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._memory: Any = _map_new(self.path)
        except OSError as error:
            raise StorageError.from_os_error(error, f"making {self.path}") from error
        put(self._memory, PLACES["step"], -1)
        self._memory[FACTS : FACTS + len(text)] = text
        struct.pack_into("<II", self._memory, 8, VERSION, len(text))
        self._memory[:8] = MAGIC
        self.tick()

    def tick(self) -> None:
        """There was progress."""
        self._ticks += 1
        _TICKED(self._memory, PLACES["ticks"], self._ticks, now_ns())

    def step(self, number: int, done: int) -> None:
        """It is in step ``number`` now, and has completed ``done``."""
        _STEP(self._memory, PLACES["step"], number, done)
        self.tick()

    def activity(self, activity: Activity) -> None:
        """It does that from now on."""
        _ACTIVITY(self._memory, PLACES["activity"], activity, now_ns())
        self.tick()

    def enter(
        self,
        name: str,
        *,
        group: str,
        group_size: int,
        sequence: int,
        size_bytes: int,
        where: str = "",
        unusual: bool = False,
    ) -> None:
        """It begins a collective."""
        self._entries += 2
        memory, places = self._memory, PLACES
        put(memory, places["guard"], self._entries - 1)
        for text, value in (("name", name), ("group", group), ("where", where)):
            self._write_text(text, value)
        _COLLECTIVE(
            memory,
            places["entered"],
            1,
            sequence,
            now_ns(),
            size_bytes,
            group_size,
            unusual,
        )
        put(memory, places["guard"], self._entries)
        self.tick()

    def leave(self) -> None:
        """It has left the collective."""
        put(self._memory, PLACES["entered"], 0)
        self.tick()

    def end(self, *, well: bool, last_words: str = "") -> None:
        """It ends."""
        self._write_text("last_words", last_words)
        put(self._memory, PLACES["left"], 1 if well else 2)

    @property
    def asked(self) -> int:
        """How often a dump was asked for."""
        return int(INTEGER.unpack_from(self._memory, PLACES["asked"])[0])

    def answer(self, number: int) -> None:
        """The dump that was asked for is written."""
        put(self._memory, PLACES["answered"], number)

    def detach(self) -> None:
        """Let go of the file, and write into nothing from now on, as a forked child must."""
        self._memory = bytearray(SIZE)

    def _write_text(self, name: str, value: str) -> None:
        offset, room = TEXT_PLACES[name]
        encoded = value.encode("utf-8", "replace")[: room - 2]
        struct.pack_into(f"<H{len(encoded)}s", self._memory, offset, len(encoded), encoded)


def own_facts(
    process: str,
    rank: int,
    world_size: int,
    *,
    stacks_signal: int = 0,
    stacks_file: str = "",
    flight_file: str = "",
) -> BoardFacts:
    """The facts of this process."""
    return BoardFacts(
        process=process,
        rank=rank,
        world_size=world_size,
        host=host_name(),
        pid=os.getpid(),
        boot=boot_id(),
        space=process_space(),
        since_ns=now_ns(),
        stacks_signal=stacks_signal,
        stacks_file=stacks_file,
        flight_file=flight_file,
    )


def _map_new(path: Path) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if sys.platform == "linux":
            os.posix_fallocate(descriptor, 0, SIZE)  # a full disk is told here, not by SIGBUS
        else:
            os.ftruncate(descriptor, SIZE)
        return mmap.mmap(descriptor, SIZE)
    finally:
        os.close(descriptor)
