"""What a process runs, by its command: a part of opsuite, or a program of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from collectors.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opsuite.attaching.process import Process

_MOST_NAMED = 8


def is_opsuites(process: Process) -> bool:
    """Whether it is the collector, a watchdog or a command of opsuite's, which start ranks only."""
    command = process.command
    module = command[command.index("-m") + 1] if "-m" in command[:-1] else ""
    script = next((part for part in command[1:] if not part.startswith("-")), "")
    return module.partition(".")[0] == "opsuite" or Path(script).name == "opsuite"


def require_one_program(tops: Sequence[Process]) -> None:
    """What only descends from what was given has to be one job; UsageError: they run several."""
    programs = {script_of(process) for process in tops}
    if len(programs) > 1:
        raise UsageError(
            f"below what was given run {len(programs)} programs that have nothing in common",
            where=", ".join(f"process {p.pid} ({script_of(p)})" for p in tops[:_MOST_NAMED]),
            remedy="give the numbers of the ranks' processes, or of the torchrun above them",
        )


def script_of(process: Process) -> str:
    """What a process runs, in a word."""
    arguments = list(process.command[1:])
    if "-m" in arguments[:-1]:
        return arguments[arguments.index("-m") + 1].rpartition(".")[2]
    scripts = (Path(argument).stem for argument in arguments if argument.endswith(".py"))
    return next(scripts, "job")
