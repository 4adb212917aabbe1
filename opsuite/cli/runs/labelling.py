"""``opsuite runs pin|unpin|tag``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collectors.errors import UsageError
from opsuite.output import narrate, print_data

if TYPE_CHECKING:
    from collections.abc import Callable

    from collectors.labels import Labels

# `-name` takes a tag away; it is no option, not even where it begins with -h.
SIGNED: dict[str, Any] = {"ignore_unknown_options": True, "help_option_names": ["--help"]}
_Run = Annotated[str, typer.Argument(help="Run id, its beginning, or `last`.")]


def pin(run: _Run) -> None:
    """Keep a run: neither `gc` nor the collector nor `rm` removes it."""
    run_id, _ = _change(run, lambda labels: replace(labels, pinned=True))
    narrate(f"{run_id} is pinned")


def unpin(run: _Run) -> None:
    """Let a run go where `gc` or the collector's retention says so."""
    run_id, _ = _change(run, lambda labels: replace(labels, pinned=False))
    narrate(f"{run_id} is not pinned")


def tag(
    run: _Run,
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[+NAME|-NAME]...", help="Tags to add or take.")
    ] = None,
) -> None:
    """Add tags to a run, take some away, and print what it has."""
    add = tuple(change[1:] for change in changes or [] if change.startswith("+"))
    remove = tuple(change[1:] for change in changes or [] if change.startswith("-"))
    if len(add) + len(remove) < len(changes or []):
        wrong = next(change for change in changes or [] if change[:1] not in ("+", "-"))
        raise UsageError(
            f"{wrong!r} neither adds nor takes a tag",
            where="the arguments",
            remedy=f"write +{wrong} or -{wrong}",
        )
    _, labels = _change(run, lambda labels: labels.tagged(add=add, remove=remove))
    print_data("\n".join(labels.tags))


def _change(reference: str, change: Callable[[Labels], Labels]) -> tuple[str, Labels]:
    from collectors.labels import change_labels
    from collectors.run import RunDirectory
    from collectors.settings import Settings

    run = RunDirectory.open(Settings.from_environment().home, reference)
    return run.run_id, change_labels(run.path, change)
