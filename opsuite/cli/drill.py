"""``opsuite drill``: strike a job with real faults, and see whether it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opsuite.extras import require_engine
from opsuite.output import narrate, print_data, print_json

if TYPE_CHECKING:
    from opsuite.drilling.outcome import Outcome


def drill(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG.toml]", help="Without it: a small job.")
    ] = None,
    *,
    faults: Annotated[
        list[str] | None,
        typer.Option(metavar="FAULT", help="Such as sigkill:rank=1,step=40; see docs/faults.md."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As for launch.")
    ] = None,
    standbys: Annotated[int, typer.Option(min=0, max=16, help="Hosts that stand by.")] = 1,
    apart: Annotated[
        bool, typer.Option("--apart/--together", help="Network namespaces for the hosts, or one.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Strike a job with real faults; exits with 1 where it did not come to its end."""
    from collectors.configuration import OVERRIDES, apply_overrides, load_toml, resolve
    from collectors.settings import Settings
    from engine.training.config import RunConfig
    from opsuite.collecting import start_collecting
    from opsuite.drilling.drill import Drill, check_drill, run_drill
    from opsuite.drilling.outcome import read_outcome
    from opsuite.drilling.small_job import SMALL_JOB

    layers = [("the small job", SMALL_JOB)]
    if config is not None:
        layers = [(str(config), load_toml(config)), ("opsuite drill", _RECOVERS)]
    layers.append((OVERRIDES, apply_overrides({}, overrides or [])))
    value = resolve(RunConfig, layers).value
    needs_storage = any(text.startswith(("disk-full", "frozen-storage")) for text in faults or [])
    planned = Drill(
        config=value,
        faults=tuple(faults or []),
        standbys=standbys,
        apart=apart,
        storage_bytes=(256 << 20) if needs_storage else 0,
    )
    check_drill(planned)
    require_engine()
    settings = Settings.from_environment()
    start_collecting(settings)
    drilled = run_drill(planned, home=settings.home, narrate=narrate)
    outcome = read_outcome(settings.home, drilled)
    if json:
        print_json(outcome.to_json())
    else:
        print_data(_render(outcome))
    if drilled.result.exit_code:
        raise typer.Exit(drilled.result.exit_code)


_RECOVERS = {"resilience": {"recover": True}}


def _render(outcome: Outcome) -> str:
    from tui.table import render_table

    def seconds(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    rows = [
        (
            each.fault,
            each.skipped or ("struck" if each.struck_s is not None else "not struck"),
            ", ".join(each.causes),
            seconds(each.detected_after_s),
            seconds(each.productive_after_s),
        )
        for each in outcome.faults
    ]
    columns = ["fault", "injected", "recorded causes", "detected after s", "productive after s"]
    spent = [(cause, f"{each:.2f}") for cause, each in outcome.spent_s.items()]
    loss = f", loss {outcome.loss:.4f}" if outcome.loss is not None else ""
    head = (
        f"{outcome.run_id}: {outcome.status} after {outcome.attempts} attempt(s){loss},"
        f" {outcome.effective:.1%} of {outcome.wall_s:.1f} s productive"
    )
    return "\n".join([head, render_table(columns, rows), render_table(["spent on", "s"], spent)])
