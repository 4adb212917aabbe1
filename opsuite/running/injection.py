"""The environment in which a command becomes a run of ours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from collectors.run import RunDirectory

INJECTED = Path(__file__).resolve().parent / "inject"
"""Holds the sitecustomize.py that every Python process of the run finds first."""
DUMPS = "dumps"
_ENTRIES = "2000"


def injected_environment(
    environ: Mapping[str, str], run: RunDirectory, *, streams: Iterable[int] | None
) -> dict[str, str]:
    """``environ``, with what makes Python processes ranks of ``run``.

    What the user has set of the flight recorder (names of torch 2.8 and later, or before) stays.

    Args:
        streams: the descriptors that the command gets as its output: processes of a rank that have
            one of them write into the rank's log instead. None: they are left alone.
    """
    made = dict(environ)
    made["OPSUITE_RUN"] = run.run_id
    made["OPSUITE_HOME"] = str(run.path.parents[1])
    # An empty entry would mean the working directory.
    made["PYTHONPATH"] = os.pathsep.join(filter(None, (str(INJECTED), environ.get("PYTHONPATH"))))
    made.pop("OPSUITE_STREAMS", None)
    if streams is not None:
        made["OPSUITE_STREAMS"] = ",".join(dict.fromkeys(map(_identity, streams)))
    for names, value in _flight_recorder(run.path / DUMPS):
        if not any(name in environ for name in names):
            made[names[0]] = value
    made.setdefault("PYTHONFAULTHANDLER", "1")  # a crash writes its stack into the log
    return made


def _flight_recorder(dumps: Path) -> list[tuple[tuple[str, ...], str]]:
    """Each setting, with the names under which the user may have made it."""
    return [
        (("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE"), _ENTRIES),
        (
            ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE"),
            str(dumps / "nccl_trace_rank_"),
        ),
        (("TORCH_NCCL_DUMP_ON_TIMEOUT",), "1"),
        (("TORCH_NCCL_DEBUG_INFO_PIPE_FILE",), str(dumps / "nccl_dump_rank_")),
    ]


def _identity(descriptor: int) -> str:
    found = os.fstat(descriptor)
    return f"{found.st_dev}:{found.st_ino}"
