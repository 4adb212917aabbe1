"""``opsuite alerts``: check the rules, see what was told, and hear the bell."""

from __future__ import annotations

import json as json_text
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collectors.errors import OpsuiteError, UsageError
from opsuite.cli.exit_codes import ExitCode
from opsuite.output import narrate, print_data, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collectors.alerts.rule import AlertRule
    from collectors.query.source import Source

alerts = typer.Typer(no_args_is_help=True, help="Rules in SQL that tell you when something is up.")
_PAUSE_S = 0.5
_Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


@alerts.command("check")
def check(
    file: Annotated[Path | None, typer.Argument(help="Rules; none: alerts.toml at home.")] = None,
    json: _Json = False,
) -> None:
    """Validate the rules, ask each once, and show what it would tell. Nobody is told.

    Exits with 1 where a rule cannot be asked.
    """
    from collectors.alerts.rule import load_rules
    from collectors.daemon.access import open_store
    from collectors.settings import Settings

    home = Settings.from_environment().home
    rules = load_rules(_path(home, file))
    with open_store(home) as store:
        results = [_ask(rule, store) for rule in rules]
    if json:
        print_json(results)
    else:
        for result in results:
            _print(result)
    if any(result["error"] for result in results):
        raise typer.Exit(ExitCode.FINDINGS_OR_FAILED)


@alerts.command("test")
def test(
    name: Annotated[str, typer.Argument(help="Name of a rule in alerts.toml.")],
) -> None:
    """Send a made-up alert through a rule's channels. Exits with 1 where one does not take it."""
    from collectors.alerts.notification import NotTold, send, shown
    from collectors.alerts.policy import Alarm
    from collectors.alerts.rule import load_rules
    from collectors.settings import Settings

    rules = load_rules(_path(Settings.from_environment().home, None))
    rule = next((rule for rule in rules if rule.name == name), None)
    if rule is None:
        known = ", ".join(rule.name for rule in rules) or "none"
        raise UsageError(f"there is no alert {name!r}", where="alerts.toml", remedy=f"of: {known}")
    now_s = time.time()
    alarm = Alarm(
        rule=name,
        severity=rule.severity,
        state="firing",
        key="[]",
        message="a test of this alert",
        row={},
        since_s=now_s,
        at_s=now_s,
        count=1,
    )
    failed = False
    for channel in rule.notify:
        try:
            send(channel, alarm.to_json())
            narrate(f"{shown(channel)}: told" + ("\a" if channel.bell else ""))
        except NotTold as error:
            failed = True
            narrate(f"{shown(channel)}: {error}")
    if failed:
        raise typer.Exit(ExitCode.FINDINGS_OR_FAILED)


@alerts.command("list")
def list_told(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on, and ring for those with a bell.")
    ] = False,
    limit: Annotated[int, typer.Option(min=0, help="How many of the last; 0: all.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show what was told, the latest last."""
    from collectors.alerts.notification import JOURNAL
    from collectors.settings import Settings

    path = Settings.from_environment().home / JOURNAL
    told, end = _read(path, 0)
    for entry in told[-limit:] if limit else told:
        print_data(_line(entry, json))
    if not told and not follow:
        narrate("no alert was told yet")
    for entry in _follow(path, end) if follow else ():
        print_data(_line(entry, json))
        if entry.get("bell") and sys.stderr.isatty():
            sys.stderr.write("\a")
            sys.stderr.flush()


def _path(home: Path, file: Path | None) -> Path:
    from collectors.alerts.rule import FILE

    return file or home / FILE


def _ask(rule: AlertRule, store: Source) -> dict[str, Any]:
    from collectors.alerts.watch import MOST_ROWS, json_rows

    result: dict[str, Any] = {"name": rule.name, "rows": 0, "messages": [], "error": None}
    try:
        answer = store.query(rule.sql, MOST_ROWS)
        rule.check_columns(answer.columns)
    except (OpsuiteError, ValueError) as error:
        return result | {"error": error.what if isinstance(error, OpsuiteError) else str(error)}
    return result | {"rows": answer.total, "messages": [rule.text(r) for r in json_rows(answer)]}


def _print(result: dict[str, Any]) -> None:
    if result["error"]:
        return print_data(f"{result['name']}: wrong: {result['error']}")
    print_data(f"{result['name']}: {result['rows']} alert(s) now")
    for message in result["messages"][:10]:
        print_data(f"  {message}")
    if len(result["messages"]) > 10:
        narrate(f"  {len(result['messages']) - 10} more")
    return None


def _read(path: Path, start: int) -> tuple[list[dict[str, Any]], int]:
    """The whole lines from a byte on, and where they end; of a new file, from its begin."""
    try:
        with path.open("rb") as file:
            if start > file.seek(0, 2):
                start = 0
            file.seek(start)
            text = file.read()
    except FileNotFoundError:
        return [], 0
    whole = text[: text.rfind(b"\n") + 1]
    entries = []
    for line in whole.splitlines():
        try:
            entry = json_text.loads(line)
        except ValueError:
            continue  # a line that a full disk cut short
        entries += [entry] if isinstance(entry, dict) else []
    return entries, start + len(whole)


def _follow(path: Path, end: int) -> Iterator[dict[str, Any]]:
    while True:
        told, end = _read(path, end)
        yield from told
        time.sleep(_PAUSE_S)


def _line(entry: dict[str, Any], json: bool) -> str:
    if json:
        return json_text.dumps(entry)
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(entry.get("at_s") or 0)))
    words = (entry.get(name, "") for name in ("severity", "rule", "state"))
    text = "".join(c if c.isprintable() else " " for c in str(entry.get("message", "")))
    return f"{moment}  {' '.join(map(str, words))}: {text}"
