"""The root that a rank named in the collective it is in, which no record of collectives keeps."""

from __future__ import annotations

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from collectors.errors import OpsuiteError
from collectors.samplers.stacks import _py_spy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from collectors.samplers.thread_stack import ProcessStacks

_FILE = "torch/distributed/distributed_c10d.py"
_ROOTED = (
    "broadcast",
    "broadcast_object_list",
    "gather",
    "gather_object",
    "reduce",
    "scatter",
    "scatter_object_list",
)
_VARIABLES = {"src": ("group_src", "src"), "dst": ("group_dst", "dst")}
_WORKERS = 4


def roots_of(processes: Sequence[ProcessStacks], *, within_s: float) -> dict[int, str]:
    """By process, the root of the collective that its main thread is in, such as ``src 0``.

    The number is the member's of the group. Only processes whose stack shows such a collective are
    read, and nothing but these numbers is kept; who cannot be read has no entry.
    """
    deadline = time.monotonic() + within_s
    asked = [each.pid for each in processes if not each.child and _names_a_root(each)]
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="roots") as pool:
        told = list(pool.map(lambda pid: _root(pid, deadline - time.monotonic()), asked))
    return {pid: root for pid, root in zip(asked, told, strict=True) if root}


def _names_a_root(process: ProcessStacks) -> bool:
    frames = process.main.frames if process.main else ()
    return any(_is_rooted(frame.function, frame.path) for frame in frames)


def _is_rooted(function: str, path: str) -> bool:
    return path.endswith(_FILE) and function.rpartition(".")[2] in _ROOTED


def _root(pid: int, timeout_s: float) -> str:
    if timeout_s <= 0:
        return ""
    try:
        command = [_py_spy(), "dump", "--json", "--nonblocking", "--locals", "--pid", str(pid)]
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=timeout_s,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        return _root_in(pid, json.loads(done.stdout))
    except (OpsuiteError, OSError, subprocess.SubprocessError, ValueError, TypeError, KeyError):
        return ""  # one hint less; what hinders py-spy is told where the stacks are read


def _root_in(pid: int, threads: list[dict[str, Any]]) -> str:
    for thread in threads:
        if thread["os_thread_id"] != pid:
            continue
        for frame in thread["frames"]:
            if _is_rooted(frame["name"], frame["filename"]):
                return _told({each["name"]: each["repr"] for each in frame["locals"] or ()})
    return ""


def _told(variables: dict[str, str | None]) -> str:
    for what, names in _VARIABLES.items():
        for name in names:
            value = variables.get(name) or ""
            if value.isdecimal() and len(value) < 10:
                return f"{what} {value}"
    return ""
