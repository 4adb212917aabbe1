"""``opsuite check``: whether this host, and the way to another one, is sound and fast."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collectors.duration import parse_duration
from collectors.errors import OpsuiteError, TimedOut, Unreachable, UsageError
from opsuite.cli.exit_codes import ExitCode
from opsuite.output import narrate, print_data, print_json

if TYPE_CHECKING:
    from collectors.settings import Settings
    from playbooks.checks.baseline import Baseline
    from playbooks.checks.check import Measurement
    from playbooks.checks.suite import HostVerdict, Profile

_BASELINE_ROUNDS = 3
_PAIR_S = 2.0
_START_S = 60.0  # for a pair test's process to load PyTorch, and CUDA


def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="memory, loopback, burn-in, all-to-all. [default: what the profile has]",
        ),
    ] = None,
    *,
    quick: Annotated[
        bool, typer.Option("--quick/--full", help="About 2 seconds; or all checks, a minute.")
    ] = True,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="For all together, such as 10s or 5m.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="Share below the baseline that is not slow.")
    ] = 0.3,
    update_baseline: Annotated[
        bool, typer.Option("--update-baseline", help="Store the figures as this hardware's own.")
    ] = False,
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Pair test: wait there for --peer.")
    ] = None,
    peer: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Pair test with who listens there.")
    ] = None,
    limit: Annotated[
        str, typer.Option(metavar="TIME", help="Pair test: for coming together, and for the test.")
    ] = "60s",
    device: Annotated[str, typer.Option(help="cpu or cuda: of both, given to --listen.")] = "cpu",
    api_key_file: Annotated[
        Path | None, typer.Option(help="Pair test: file with the key of both ends.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> None:
    """Check this host bit by bit and for speed, or the way from it to another one.

    Exits with 1 where something is slow, corrupt or failed. With no --api-key-file, OPSUITE_API_KEY
    is the key of a pair test; with neither, it listens to this machine only.
    """
    from collectors.settings import Settings
    from playbooks.checks.baseline import load_baseline
    from playbooks.checks.hardware import this_hardware
    from playbooks.checks.suite import better, judge_host, measure_rounds, run_checks

    settings = Settings.from_environment()
    baseline = load_baseline(settings.home, this_hardware())
    budget_s, begun = _seconds(budget, "--budget"), time.monotonic()
    profile = _profile(names, quick=quick, budget_s=budget_s)
    if listen or peer:
        _require_one_end(names, listen, peer, device)
        end = ("--listen", listen) if listen else ("--peer", peer or "")
        options = (*end, "--device", device, "--seconds", str(budget_s or _PAIR_S))
        limit_s = _seconds(limit, "--limit") or 0.0
        rounds = [[_measure_pair(options, limit_s, _key(settings, api_key_file))]]
    elif update_baseline:
        rounds = measure_rounds(profile, rounds=_BASELINE_ROUNDS)
    else:
        _report(run_checks(profile, baseline, tolerance=tolerance), as_json=as_json)
        return
    if update_baseline:
        baseline = _store(settings.home, baseline, rounds)
    elapsed_s = time.monotonic() - begun
    found = judge_host(reduce(better, rounds), baseline, tolerance=tolerance, elapsed_s=elapsed_s)
    _report(found, as_json=as_json)


def _seconds(text: str | None, option: str) -> float | None:
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(str(error), where=option, remedy="write it like 10s") from None


def _profile(names: list[str] | None, *, quick: bool, budget_s: float | None) -> Profile:
    from playbooks.checks.suite import FULL, QUICK

    profile = QUICK if quick else FULL
    checks = tuple(names) if names else profile.checks
    return replace(profile, checks=checks, budget_s=budget_s or profile.budget_s)


def _store(home: Path, baseline: Baseline, rounds: list[list[Measurement]]) -> Baseline:
    from playbooks.checks.baseline import save_baseline

    updated = baseline.updated(measurement for measured in rounds for measurement in measured)
    narrate(f"the baseline is stored: {save_baseline(home, updated)}")
    return updated


def _report(found: HostVerdict, *, as_json: bool) -> None:
    from tui.table import render_table

    if as_json:
        print_json(found.to_json())
    else:
        columns = ["check", "of", "verdict", "measured", "baseline", "unit", "detail"]
        rows = [
            (r.name, r.subject, str(r.verdict), r.value, r.baseline, r.unit, r.detail)
            for r in found.results
        ]
        print_data(render_table(columns, rows))
        print_data(f"{found.verdict} ({found.elapsed_s:.1f} s)")
    if not found.fine:
        raise typer.Exit(ExitCode.FINDINGS_OR_FAILED)


# -- the pair test -------------------------------------------------------------------------------


def _require_one_end(
    names: list[str] | None, listen: str | None, peer: str | None, device: str
) -> None:
    from opsuite.extras import require_engine

    if names or (listen and peer):
        raise UsageError(
            "a pair test is one end of one test, and nothing beside it",
            where="--listen, --peer",
            remedy="give one of them, and no NAME",
        )
    if device not in {"cpu", "cuda"}:
        raise UsageError(f"{device!r} is no device", where="--device", remedy="give cpu or cuda")
    require_engine()


def _key(settings: Settings, file: Path | None) -> str:
    from collectors.api_key import read_key

    return read_key(file) if file else settings.api_key or ""


def _measure_pair(options: tuple[str, ...], limit_s: float, key: str) -> Measurement:
    """In a process of its own, which is ended when it takes too long.

    Raises:
        OpsuiteError: as the other process said, with its exit code.
        TimedOut: it hung.
    """
    from playbooks.checks.check import Measurement
    from playbooks.checks.child import Child, run_children

    child = Child(
        module="playbooks.checks.pair_test",
        arguments=(*options, "--limit-s", str(limit_s)),
        environment={"OPSUITE_API_KEY": key},
    )
    (given,) = run_children([child], limit_s=_START_S + 2 * limit_s, narrate=True)
    if given.exit_code is None:
        raise TimedOut(f"the pair test hangs: {given.failure}", where=options[1])
    if given.document is None:
        raise OpsuiteError(f"the pair test ended: {given.failure}", where=options[1])
    if given.failure:
        raise _ERRORS.get(given.exit_code, OpsuiteError)(**given.document)
    return Measurement.from_json(given.document)


_ERRORS: dict[int, type[OpsuiteError]] = {
    kind.exit_code: kind for kind in (UsageError, Unreachable, TimedOut)
}
