"""What a process is doing just now: the stacks of its threads, however they were read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StackFrame:
    """One call on a stack.

    Attributes:
        function: its name; qualified (``Net.forward``) where the reader knows more than the name.
        path: the full path of the file.
        file: a short form of it, for people.
        line: 0: not known.
    """

    function: str
    path: str
    file: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadStack:
    """A thread, its innermost frame first.

    Attributes:
        thread_id: the interpreter's; None: not known.
        name: "" where it has none.
        main: whether it is the main thread.
        active: whether it was on a core; None: not known.
        gil: whether it held the lock of its interpreter; None: not known.
    """

    thread_id: int | None
    name: str
    main: bool
    active: bool | None
    gil: bool | None
    frames: tuple[StackFrame, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStacks:
    """All threads of a process, or why they could not be read.

    Attributes:
        rank_pid: the process that was asked for; ``pid`` is that one, or a child of it.
        child: what a child is ("loader worker", "compile worker", "child"); "" for no child.
        stopped: whether it is stopped by a signal or a debugger.
        error: why there are no threads, and what helps; "" where there are.
        note: that they were read in a lesser way, why, and what helps; "" otherwise.
    """

    pid: int
    rank_pid: int
    child: str = ""
    threads: tuple[ThreadStack, ...] = ()
    stopped: bool = False
    error: str = ""
    note: str = ""

    @property
    def main(self) -> ThreadStack | None:
        """The main thread, or the first where none is known to be it; None: there is no thread."""
        mains = [thread for thread in self.threads if thread.main]
        return next(iter([*mains, *self.threads]), None)
