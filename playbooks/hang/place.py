"""Where a rank's code is, by its stack: in a collective, in a lock, in its loader, ..."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import takewhile
from pathlib import PurePath
from typing import TYPE_CHECKING

from collectors.samplers.thread_stack import StackFrame
from collectors.samplers.user_code import is_opsuites, users_frame
from playbooks.hang.long_work import long_work_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from playbooks.hang.observation import Frame, RankStack


class Doing(StrEnum):
    """What a stack shows, in the words of a report."""

    COLLECTIVE = "waits in a collective"
    DEVICE = "waits for its device"
    LOADER = "is in its data loader"
    LOCK = "waits for another thread"
    QUEUE = "waits for a thread of its own to put something into a queue"
    FULL = "waits for a thread of its own to take something out of a queue"
    SLEEPING = "sleeps"
    READING = "waits for input or output"
    PROCESS = "waits for another process"
    COMPUTING = "is"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a rank is.

    Attributes:
        user: the innermost line of the user's own code (of a loader's worker, where it is there);
            None: there is no Python code.
        child: of which process below the rank that line is; "": of the rank itself.
        long_work: what it does that may take long ("compiles", "saves a checkpoint"); "": nothing.
        evaluates: whether it is in an evaluation.
        collective: the one that it waits in, such as "broadcast"; "": in none, or not known.
        threads: where its other threads are that run code of the user's (or else of a library's).
    """

    doing: Doing
    user: Frame | None
    child: str = ""
    long_work: str = ""
    evaluates: bool = False
    collective: str = ""
    threads: tuple[Frame, ...] = ()

    @property
    def line(self) -> str:
        """As ``train.py:61``; "" where there is none."""
        return "" if self.user is None else line_of(self.user)


def line_of(frame: Frame) -> str:
    """As ``train.py:61``."""
    return f"{PurePath(frame.file).name}:{frame.line}"


_FOR_THREADS = (Doing.LOCK, Doing.QUEUE, Doing.FULL)
_SEARCHED = 4  # innermost frames: what is further out has called them
_CALLS = (
    "distributed/distributed_c10d.py",
    "distributed/c10d_logger.py",
    "_functional_collectives.py",
)
_DISTRIBUTED = ("torch/distributed/", "torch/nn/parallel/")
# A user's own file may be called threading.py or process.py too.
_STDLIB = r"/lib(64)?/python3[^/]*/"
_THREADS = re.compile(
    rf"{_STDLIB}(threading|queue|concurrent/futures/\w+|multiprocessing/synchronize)\.py$"
)
_QUEUE = re.compile(rf"{_STDLIB}queue\.py$")
_PROCESSES = re.compile(
    rf"{_STDLIB}(subprocess|multiprocessing/(popen_\w+|process|connection|pool))\.py$"
)
_MACHINERY = re.compile(
    rf"{_STDLIB}(?!.*-packages/)|-packages/(torch/|tqdm/_monitor\.py$)|^<frozen"
)
"""Threads that are in nothing else run nobody's code just now."""
_LOADERS = (
    "torch/utils/data/",
    "/torchdata/",
    "-packages/datasets/",
    "/litdata/",
    "/streaming/base/",
)
_DEVICES = ("torch/cuda/__init__.py", "torch/cuda/streams.py", "torch/accelerator/")
_LOCK_TEXT = re.compile(
    r"\.acquire\(|^(async )?with .*(?<![a-z])(r?lock|mutex|cond|condition|sem|semaphore)\b", re.I
)
_SLEEP_TEXT = re.compile(r"\bsleep\(")
_READ_TEXT = re.compile(r"\b(read|readline|recv|recv_into|accept|select|poll|input|flock)\(")
_DEVICE_TEXT = re.compile(r"\.(item|cpu|tolist|numpy|synchronize)\(|\bnonzero\(")
_COLLECTIVE_TEXT = re.compile(
    r"\b(all_?reduce|all_?gather\w*|all_?to_?all\w*|[Bb]arrier|reduce_?scatter\w*)\("
)
_NAMED_TEXT = re.compile(
    rf"{_COLLECTIVE_TEXT.pattern}|\b(backward|broadcast\w*|reduce|gather\w*|scatter\w*|send|recv)\("
)
_WRAPPERS = ("wrapper", "_")  # of distributed_c10d's functions; a name says less than its caller's
_EVALUATION = re.compile(
    r"(^|_)(eval|evaluate|evaluation|validate|validation|predict|generate)(_|$)"
)


def place_of(stacks: Sequence[RankStack]) -> Place | None:
    """Where a rank is, by its own stack and those of its children; None where there is none."""
    own = next((stack for stack in stacks if not stack.child), None)
    children = [stack for stack in stacks if stack.child]
    if own is None:
        return None
    own = replace(own, frames=tuple(f for f in own.frames if not is_opsuites(f.file)) or own.frames)
    frames = own.frames
    doing = _doing(own)
    if doing is Doing.COLLECTIVE and (hook := _gradient_hook(own)):
        frames, doing = hook, _by_text(hook[0])
    user, child = users_line(frames), ""
    if doing is Doing.LOADER:
        user, child = _in_worker(children) or (user, "")
    return Place(
        doing=doing,
        user=user,
        child=child,
        long_work=long_work_of(frames, children),
        evaluates=any(_EVALUATION.search(_name(frame)) for frame in frames),
        collective=_collective(frames, user) if doing is Doing.COLLECTIVE else "",
        threads=_threads(own.others) if doing in _FOR_THREADS else (),
    )


def _collective(frames: Sequence[Frame], user: Frame | None) -> str:
    """By the functions of torch.distributed on the stack, else by the source of the lines."""
    if _name(frames[0]) == "_engine_run_backward":
        return "backward"
    names = [_name(frame) for frame in takewhile(lambda each: _in([each], _CALLS), frames)]
    public = [name for name in names if not name.startswith(_WRAPPERS)]
    if public:
        return public[-1]
    texts = [frames[0].text, user.text if user else ""]
    found = next(filter(None, map(_NAMED_TEXT.search, texts)), None)
    return found[0][:-1] if found else ""


def _threads(others: Sequence[Sequence[Frame]]) -> tuple[Frame, ...]:
    """The lines of threads that run somebody's code; those of opsuite's and idle pools do not."""
    lines = [line for frames in others if (line := _line_of_thread(frames)) is not None]
    users = [line for line in lines if "-packages/" not in line.file]
    return tuple(dict.fromkeys(users or lines))


def _line_of_thread(frames: Sequence[Frame]) -> Frame | None:
    run = next((frame for frame in reversed(frames) if not _THREADS.search(frame.file)), None)
    line = users_line(frames)
    if run is None or line is None or is_opsuites(run.file) or _MACHINERY.search(line.file):
        return None
    return line


def users_line(frames: Sequence[Frame]) -> Frame | None:
    """The innermost frame of the user's own code, or what comes nearest to it."""
    told = [StackFrame(each.function, each.file, each.file, each.line) for each in frames]
    chosen = users_frame(told)
    for frame, candidate in zip(frames, told, strict=True):
        if candidate is chosen:
            return frame
    return next(iter(frames), None)


def _doing(stack: RankStack) -> Doing:
    frames = stack.frames
    if not frames:
        return Doing.COMPUTING
    near = frames[:_SEARCHED]
    inner = list(takewhile(_is_stdlib, frames))  # what is further out may only have started it
    queue = next((_name(frame) for frame in inner if _QUEUE.search(frame.file)), "")
    for is_so, doing in (
        (_waits_in_collective(stack), Doing.COLLECTIVE),
        (_in(frames, _LOADERS), Doing.LOADER),
        (queue == "get", Doing.QUEUE),
        (queue == "put", Doing.FULL),
        (bool(_THREADS.search(frames[0].file)), Doing.LOCK),
        (any(_PROCESSES.search(frame.file) for frame in inner), Doing.PROCESS),
        (_in(near, _DEVICES), Doing.DEVICE),
    ):
        if is_so:
            return doing
    return _by_text(frames[0])


def _by_text(frame: Frame) -> Doing:
    """By the source of the line, where C code waits below it."""
    for pattern, doing in (
        (_LOCK_TEXT, Doing.LOCK),
        (_SLEEP_TEXT, Doing.SLEEPING),
        (_READ_TEXT, Doing.READING),
        (_DEVICE_TEXT, Doing.DEVICE),
    ):
        if pattern.search(frame.text):
            return doing
    return Doing.COMPUTING


def _waits_in_collective(stack: RankStack) -> bool:
    inner = stack.frames[0]
    if _in([inner], _CALLS):
        return True
    if stack.active:
        return False
    if _in([inner], _DISTRIBUTED) or _name(inner) == "_engine_run_backward":
        return True  # in a backward pass no hook runs in this thread: the engine waits
    # A work that was issued before and is waited for in C++, or another library's call.
    return bool(_COLLECTIVE_TEXT.search(inner.text)) or (
        ".wait(" in inner.text and not _THREADS.search(inner.file)
    )


def _gradient_hook(stack: RankStack) -> tuple[Frame, ...]:
    """On a GPU, hooks of gradients run in a thread of the engine, which Python did not start."""
    if _name(stack.frames[0]) != "_engine_run_backward":
        return ()
    for frames in stack.others:
        if frames and not _THREADS.search(frames[-1].file) and not _in(frames[:1], _DISTRIBUTED):
            return frames
    return ()


def _in_worker(children: Sequence[RankStack]) -> tuple[Frame, str] | None:
    """The line of a loader's worker that is at work (others wait for an index to fetch)."""
    for child in children:
        at_work = any("_utils/fetch.py" in frame.file for frame in child.frames)
        user = users_line(child.frames)
        if at_work and user is not None:
            return user, child.child
    return None


def _in(frames: Sequence[Frame], parts: Sequence[str]) -> bool:
    return any(part in frame.file for frame in frames for part in parts)


def _is_stdlib(frame: Frame) -> bool:
    return bool(re.search(_STDLIB, frame.file)) and "-packages/" not in frame.file


def _name(frame: Frame) -> str:
    return frame.function.rpartition(".")[2]
