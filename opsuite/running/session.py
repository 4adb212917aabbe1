"""One command as a run, from its start to what there is to say at its end."""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.errors import StorageError
from collectors.run import RunDirectory
from opsuite.cli.exit_codes import ExitCode
from opsuite.collecting import start_collecting
from opsuite.diagnosing import diagnose_and_tell
from opsuite.output import hush, narrate
from opsuite.running.capture import Capture
from opsuite.running.command import CommandEnd, ForegroundCommand, find_command
from opsuite.running.exit_reason import explain_failure, last_words
from opsuite.running.hang_told import hang_told
from opsuite.running.injection import DUMPS, injected_environment
from opsuite.running.screen import Screen
from opsuite.running.tail import RankLogs
from opsuite.watchdog.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from collectors.settings import Settings

_LOOK_S = 0.5
_STATUS = {
    ExitCode.FINE: "finished",
    ExitCode.FINDINGS_OR_FAILED: "failed",
    ExitCode.INTERRUPTED: "interrupted",
}
_NOT_SEEN = (
    "no rank reported: no Python process below the command trained with torch, or it did not see"
    " PYTHONPATH (python -I, -E or -S; a script, ssh or container that sets another)"
)


@dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """How a command is run.

    Attributes:
        name: of the run; "": the name of the script.
        capture: whether output goes into logs, and each line is shown with its rank.
        watchdog: whether somebody looks for hangs.
    """

    name: str = ""
    notes: str = ""
    capture: bool = True
    watchdog: bool = True


def run_command(
    command: Sequence[str],
    *,
    settings: Settings,
    environ: Mapping[str, str],
    options: CommandOptions,
) -> ExitCode:
    """Run ``command`` to its end, and say what came of it; call it from the main thread.

    Raises:
        UsageError: it cannot be started.
        StorageError: the disk refused the run.
    """
    find_command(command)
    start_collecting(settings)
    run = _begin(command, settings, options)
    code = ExitCode.FINDINGS_OR_FAILED
    try:
        narrate(f"run {run.run_id}: logs in {run.logs}")
        end = _supervise(command, run, settings, environ, options)
        code = _exit_code(end)
    finally:
        if run.owned:
            run.finish(_STATUS[code], code)
    try:
        _read_logs(run, settings)
        _conclude(run, settings, end, code)
    except BrokenPipeError:
        hush()  # the exit code tells all the same
    return code


def _begin(command: Sequence[str], settings: Settings, options: CommandOptions) -> RunDirectory:
    """A run of our own; or that which OPSUITE_RUN names, of which other hosts have parts."""

    def begin(run_id: str | None) -> RunDirectory:
        return RunDirectory.create(
            settings.home,
            name=options.name or default_name(command),
            kind="training",
            command=list(command),
            config={},
            world_size=1,  # until the first rank tells
            notes=options.notes,
            run_id=run_id,
        )

    run = (
        begin(None)
        if settings.run is None
        else RunDirectory.join(settings.home, settings.run, begin)
    )
    try:
        (run.path / DUMPS).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StorageError.from_os_error(error, f"making {run.path / DUMPS}") from error
    return run


def default_name(command: Sequence[str]) -> str:
    """What a command trains: its script, or the program."""
    scripts = [word for word in command[1:] if word.endswith((".py", ".sh"))]
    return Path(scripts[0] if scripts else command[0]).stem


def _supervise(
    command: Sequence[str],
    run: RunDirectory,
    settings: Settings,
    environ: Mapping[str, str],
    options: CommandOptions,
) -> CommandEnd:
    screen = Screen()
    capture = Capture(run.logs, screen) if options.capture else None
    streams = capture.streams if capture else (1, 2)
    environment = injected_environment(environ, run, streams=streams if capture else None)
    with (
        Guard(run, wanted=options.watchdog and settings.watchdog) as guard,
        ForegroundCommand(
            command,
            environment=environment,
            streams=streams,
            resized=capture.resize if capture else _nothing,
            spared=guard.pids,
        ) as child,
    ):
        shown = RankLogs(run.logs, screen)
        if capture:
            capture.start()
            shown.start()
        try:
            return child.wait(every_s=_LOOK_S, look=WorldSize(run).look)
        finally:
            if capture:
                _close(capture, shown)


def _nothing() -> None: ...


def _close(capture: Capture, shown: RankLogs) -> None:
    troubles = shown.close()
    notes = capture.close()
    notes += [f"warning: {path} was not shown to its end: {why}" for path, why in troubles.items()]
    with suppress(BrokenPipeError):
        for note in notes:
            narrate(note)


class WorldSize:
    """Puts into the manifest how many ranks there are, when the first has said so."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._known = not run.owned

    def look(self) -> None:
        """Look whether a rank has said so now."""
        if self._known:
            return
        sizes = {word.facts.world_size for word in last_words(self._run.path).values()}
        if not sizes:
            return
        self._known = True
        if max(sizes) != self._run.manifest.world_size:
            try:
                self._run.resize(max(sizes))
            except StorageError as error:
                narrate(f"warning: {error}")


def _read_logs(run: RunDirectory, settings: Settings) -> None:
    """Trouble in logs of which no collector has taken notice."""
    from collectors.daemon.log_watch import read_at_end

    if run.owned and settings.record:
        try:
            read_at_end(run)
        except StorageError as error:
            narrate(f"warning: {error}")


def _exit_code(end: CommandEnd) -> ExitCode:
    if end.interrupted or end.exit_code == -signal.SIGINT:
        return ExitCode.INTERRUPTED
    return ExitCode.FINDINGS_OR_FAILED if end.exit_code else ExitCode.FINE


def _conclude(run: RunDirectory, settings: Settings, end: CommandEnd, code: ExitCode) -> None:
    """What there is to say; what went wrong comes last."""
    words = last_words(run.path)
    if not words and settings.record:
        narrate(_NOT_SEEN)
    if code is ExitCode.INTERRUPTED:
        narrate(f"run {run.run_id} interrupted by {end.interrupted or signal.SIGINT.name}")
    elif code is ExitCode.FINE:
        narrate(f"run {run.run_id} finished")
        if words and settings.record:
            diagnose_and_tell(settings.home, run)
    else:
        narrate(f"run {run.run_id} failed")
        narrate(explain_failure(run.path, end.exit_code, words))
    if code is not ExitCode.FINE and (told := hang_told(run.logs, run.run_id)):
        narrate("\n".join(["it hung before:", *told]))
