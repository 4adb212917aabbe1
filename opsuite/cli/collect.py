"""``opsuite collect``: the process of this host that collects what runs record."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opsuite.output import narrate, print_data, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collectors.daemon.client import DaemonClient

collect = typer.Typer(
    no_args_is_help=False,
    invoke_without_command=True,
    help="Collect what runs record, in the background; launch and serve start this by themselves.",
)

_Home = Annotated[Path | None, typer.Option(help="The home. [default: OPSUITE_HOME]")]
_Socket = Annotated[Path | None, typer.Option(help="Of another user's collector.")]
_Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
_FOLLOW_S = 0.5


@collect.callback()
def begin(
    context: typer.Context,
    *,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay here until interrupted.")
    ] = False,
    home: _Home = None,
    group: Annotated[
        str | None, typer.Option(metavar="NAME", help="Let the members of a group read.")
    ] = None,
    idle_s: Annotated[
        float, typer.Option(min=0, help="End when nothing happens for so long; 0: never.")
    ] = 60.0,
) -> None:
    """Start the collector of this user, host and home, unless it runs."""
    if context.invoked_subcommand is not None:
        context.obj = home
        return
    from collectors.daemon.peers import group_id

    group_number = None if group is None else group_id(group)
    if foreground:
        raise typer.Exit(_stay(_home(home), group_number, idle_s))
    from collectors.daemon.lifecycle import ensure_daemon

    arguments = ["--idle-s", str(idle_s)]
    if group_number is not None:
        arguments += ["--group", str(group_number)]
    running = ensure_daemon(_home(home), arguments=tuple(arguments))
    _tell(_home(home), running.pid, started=running.started)
    if group_number is not None:
        _check_group(_home(home), group_number)


def _stay(home: Path, group: int | None, idle_s: float) -> int:
    from collectors.daemon.process import run_daemon
    from collectors.daemon.service import DaemonOptions
    from collectors.settings import Settings

    options = DaemonOptions(idle_s=idle_s, group=group, runtime=Settings.from_environment().runtime)
    return run_daemon(
        home,
        options,
        background=False,
        report=lambda pid, started: _tell(home, pid, started=started),
    )


def _tell(home: Path, pid: int, *, started: bool) -> None:
    if started:
        narrate(f"collecting into {home} (pid {pid})")
    else:
        narrate(f"already running (pid {pid})")


def _check_group(home: Path, group: int) -> None:
    """Say where members read, or that the collector that runs is not open to them."""
    from collectors.errors import UsageError

    with _client(home, None) as client:
        status = client.status()
    if status["options"]["group"] != group:
        raise UsageError(
            "the collector that runs is not open to that group",
            where=f"process {status['pid']}",
            remedy="run `opsuite collect stop`, and then this again",
        )
    narrate(f"members read with OPSUITE_COLLECTOR={status['socket']}")


@collect.command()
def status(
    context: typer.Context, *, socket: _Socket = None, home: _Home = None, json: _Json = False
) -> None:
    """Say what the collector does, how far behind it is, and what troubles it."""
    with _client(_home(home or context.obj), socket) as client:
        data = client.status()
    if json:
        print_json(data)
    else:
        print_data(_render(data))


@collect.command()
def stop(context: typer.Context, *, home: _Home = None) -> None:
    """Have the collector seal everything and end; nothing is lost, whenever it ends."""
    from collectors.daemon.lifecycle import stop_daemon

    pid = stop_daemon(_home(home or context.obj))
    narrate("no collector was running" if pid is None else f"stopped (pid {pid})")


@collect.command()
def logs(
    context: typer.Context,
    *,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones.")] = False,
    home: _Home = None,
) -> None:
    """Print what the collector had to say."""
    from collectors.daemon.lifecycle import LOG
    from collectors.daemon.logs import last_lines

    directory = _home(home or context.obj)
    for line in last_lines(directory, lines):
        print_data(line)
    if follow:
        for line in _new_lines(directory / LOG):
            print_data(line)


def _new_lines(path: Path) -> Iterator[str]:
    """Lines as they come, also after the file was begun anew."""
    position = path.stat().st_size if path.exists() else 0
    while True:
        size = path.stat().st_size if path.exists() else 0
        position = min(position, size) if size >= position else 0
        if size > position:
            with path.open(encoding="utf-8", errors="replace") as file:
                file.seek(position)
                yield from file.read().splitlines()
                position = file.tell()
        time.sleep(_FOLLOW_S)


@collect.command()
def stacks(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="Run id, its beginning, or `last`.")] = "last",
    *,
    home: _Home = None,
    json: _Json = False,
) -> None:
    """Say where the processes of a run on this host are, the odd one first; recorded as well."""
    from collectors.samplers.stack_groups import from_entries, group_stacks, render_groups

    with _client(_home(home or context.obj), None) as client:
        entries = client.stacks(run)
    if json:
        print_json(entries)
    else:
        read, unread = from_entries(entries)
        print_data(render_groups(group_stacks(read), unread))
        for note in dict.fromkeys(entry["note"] for entry in entries if "note" in entry):
            narrate(f"note: {note}")


@collect.command()
def dump(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="Run id, its beginning, or `last`.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the bundle goes.")],
    *,
    home: _Home = None,
) -> None:
    """Seal all that a run has recorded so far, and write it into one file."""
    with _client(_home(home or context.obj), None) as client:
        client.dump(run, file)
    narrate(f"written: {file}")


@collect.command()
def install(
    context: typer.Context,
    *,
    show: Annotated[
        bool, typer.Option("--print", help="Print the file, and change nothing.")
    ] = False,
    home: _Home = None,
) -> None:
    """Have the system keep the collector running: a systemd user unit, or launchd on macOS."""
    from collectors.daemon.unit import describe_unit, install_unit

    command = [sys.executable, "-P", "-m", "opsuite.cli.main", "collect", "--foreground"]
    directory = _home(home or context.obj)
    unit = describe_unit(directory, command)
    if show:
        print_data(unit.text)
        return
    install_unit(unit)
    narrate(f"written: {unit.path}")
    narrate(f"next: {unit.next_step}")


def _home(given: Path | None) -> Path:
    from collectors.settings import Settings

    return given.expanduser().absolute() if given else Settings.from_environment().home


def _client(home: Path, socket: Path | None) -> DaemonClient:
    from collectors.daemon.client import DaemonClient
    from collectors.errors import Unreachable
    from collectors.settings import Settings

    path = socket or Settings.from_environment().collector
    client = DaemonClient.find(home) if path is None else DaemonClient.connect(path)
    if client is None:
        raise Unreachable(
            "no collector is running", where=str(home), remedy="start it with `opsuite collect`"
        )
    return client


def _render(data: dict[str, Any]) -> str:
    from tui.table import format_cell

    def lag(figures: dict[str, Any]) -> str:
        if not figures["count"]:
            return "n/a"
        p50, p99, most = (figures[name] * 1e3 for name in ("p50_s", "p99_s", "max_s"))
        return f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, max {most:.0f} ms"

    facts = {
        "process": f"{data['pid']} on {data['host']}, since {data['uptime_s']:.0f} s",
        "opsuite": f"{data['version']}, protocol {data['protocol']}",
        "home": data["home"],
        "socket": data["socket"],
        "runs": ", ".join(run["run_id"] for run in data["runs"]) or "none live",
        "rows": f"{data['rows']} since it started, {data['hot_rows']} not sealed yet",
        "lag, last minute": lag(data["lag"]["last_minute"]),
        "lag, since start": lag(data["lag"]["since_start"]),
        "memory": f"{data['rss_bytes'] / 2**20:.0f} MiB",
        "processor": f"{format_cell(data['cpu_s'])} s",
        "clients": str(data["clients"]),
    }
    facts |= {"samplers": _at_work(data["samplers"])}
    lines = [f"{name:<18}{value}" for name, value in facts.items()]
    lines += [
        f"{'':<18}{each['name']} {each['state']}: {each['reason']}"
        for each in data["samplers"]
        if each["reason"]
    ]
    return "\n".join(lines + [f"warning: {text}" for text in data["warnings"]])


def _at_work(samplers: list[dict[str, Any]]) -> str:
    names = [each["name"] for each in samplers if each["state"] == "present"]
    return ", ".join(names) or "none was read: they are while a run lives here"
