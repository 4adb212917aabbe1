"""``opsuite runs export|import``: a run in one file, and as a trace for Perfetto."""

from __future__ import annotations

import os
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collectors.errors import StorageError, UsageError
from opsuite.output import narrate, print_data, print_json

if TYPE_CHECKING:
    from collectors.run import RunDirectory

_STEPS = re.compile(r"(\d{1,12})(?:-(\d{1,12}))?")


class ExportFormat(StrEnum):
    """What a run is written as."""

    BUNDLE = "bundle"
    PERFETTO = "perfetto"


def export(
    run: Annotated[str, typer.Argument(help="Run id, its beginning, or `last`.")] = "last",
    output: Annotated[
        ExportFormat,
        typer.Option("--format", help="bundle: for `runs import`; perfetto: for ui.perfetto.dev."),
    ] = ExportFormat.BUNDLE,
    file: Annotated[Path | None, typer.Option("-o", help="File to write.")] = None,
    steps: Annotated[
        str | None, typer.Option(metavar="A-B", help="Of a trace: only these steps.")
    ] = None,
) -> None:
    """Write a run into one file, and print the file's name."""
    from collectors.bundle.writer import SUFFIX
    from collectors.run import RunDirectory
    from collectors.settings import Settings

    home = Settings.from_environment().home
    directory = RunDirectory.open(home, run)
    suffix = SUFFIX if output is ExportFormat.BUNDLE else ".trace.json"
    path = file or Path(f"{directory.run_id}{suffix}")
    if path.exists():
        raise UsageError(
            "the file exists", where=str(path), remedy="remove it, or name another with -o"
        )
    if output is ExportFormat.BUNDLE:
        if steps is not None:
            raise UsageError(
                "a bundle is of the whole run", where="--steps", remedy="give --format perfetto"
            )
        _export_bundle(home, directory, path)
    else:
        _export_trace(home, directory, path, None if steps is None else _range(steps))
    print_data(str(path))


def import_(
    file: Annotated[Path, typer.Argument(help="A bundle that `runs export` wrote.")],
    json: Annotated[bool, typer.Option("--json", help="Print what came in as JSON.")] = False,
) -> None:
    """Take in a run from a bundle; then list, show, query and diagnose know it."""
    from dataclasses import asdict

    from collectors.bundle.importer import import_bundle
    from collectors.settings import Settings

    imported = import_bundle(Settings.from_environment().home, file)
    if imported.already:
        narrate("it was here already, from the same bundle")
    else:
        narrate(f"{imported.rows} rows in {imported.files} files")
    if json:
        print_json(asdict(imported))
    else:
        print_data(imported.run_id)


def _export_bundle(home: Path, run: RunDirectory, path: Path) -> None:
    from collectors.bundle.writer import write_bundle
    from collectors.daemon.client import DaemonClient
    from collectors.store.sole_collector import sole_collector

    client = DaemonClient.find(home)
    if client is not None:
        with client:
            client.dump(run.run_id, path)
    else:
        with sole_collector(home) as collector:
            collector.seal(force=True)
            write_bundle(home, run, path)


def _export_trace(home: Path, run: RunDirectory, path: Path, steps: range | None) -> None:
    from collectors.daemon.access import open_store
    from collectors.exporters.perfetto import write_perfetto

    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("x", encoding="utf-8") as text, open_store(home) as store:
            counts = write_perfetto(store, run.run_id, text, steps=steps)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise StorageError.from_os_error(error, f"writing the trace {path}") from error
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    narrate(
        f"{counts.spans} spans, {counts.collectives} collectives, {counts.arrows} arrows: "
        "open it at https://ui.perfetto.dev"
    )


def _range(text: str) -> range:
    found = _STEPS.fullmatch(text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if first > last:
        raise UsageError(f"{text!r} are no steps", where="--steps", remedy="write it like 10-20")
    return range(first, last + 1)
