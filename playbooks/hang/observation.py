"""What is known of a rank at one moment, whoever found it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collectors.board import BoardState


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One look at a rank of this host.

    Attributes:
        board: what it says of itself; None where it has no board (attached from outside).
        alive: whether the process is there.
        stopped: whether it is stopped by a signal or a debugger.
        cpu_s: processor time it and its children have used so far; None: not readable.
        io_bytes: what they have read and written so far (page cache included); None: likewise.
    """

    rank: int
    host: str
    pid: int
    board: BoardState | None
    alive: bool = True
    stopped: bool = False
    cpu_s: float | None = None
    io_bytes: int | None = None

    @property
    def left(self) -> bool | None:
        """None: it is here, or gone without a word; else whether it ended well."""
        return None if self.board is None else self.board.left

    @property
    def here(self) -> bool:
        """Whether it is alive and has not left."""
        return self.alive and self.left is None


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One call on a stack.

    Attributes:
        function: its name, qualified where the reader knows more than the name.
        file: the full path.
        text: the source of that line; "": not known.
    """

    function: str
    file: str
    line: int
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class RankStack:
    """The main thread of a rank (or of a child of it), the innermost frame first.

    Attributes:
        active: whether the thread was on a core; None: not known.
        child: "" for the rank itself, else what the child is, such as "loader worker 1234".
        others: stacks of its further threads.
        root: that it named in the collective it is in, such as ``src 0``; "": none, or not known.
    """

    rank: int
    frames: tuple[Frame, ...]
    active: bool | None = None
    child: str = ""
    others: tuple[tuple[Frame, ...], ...] = ()
    root: str = ""
