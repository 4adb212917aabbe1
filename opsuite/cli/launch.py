"""``opsuite launch``: a training run from its configuration to its checkpoint."""

from __future__ import annotations

import math
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from opsuite.collecting import start_collecting
from opsuite.extras import require_engine
from opsuite.output import narrate, print_data, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collectors.configuration import Layer, Resolved
    from collectors.run import RunDirectory
    from engine.training.config import RunConfig
    from engine.training.job import JobResult
    from engine.training.launcher import LaunchResult


def launch(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG.toml]", help="Without it: all defaults.")
    ] = None,
    *,
    nproc: Annotated[int | None, typer.Option(min=1, help="Ranks in all: tp x pp x dp.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Such as train.steps=9.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Text, JSONL, Parquet, directories; or tokens (.npy)."),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="FAULT", help="Inject one: slow-rank:rank=1,steps=60-110."),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Begin with the weights of a Hugging Face directory."),
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Continue a run from its last checkpoint.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the configuration and its sources; stop.")
    ] = False,
    print_job: Annotated[
        Literal["sbatch", "jobset"] | None,
        typer.Option("--print", help="Print the file that starts the job's hosts; stop."),
    ] = None,
    example: Annotated[
        bool, typer.Option("--example", help="Print a documented configuration; stop.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print data as JSON.")] = False,
) -> None:
    """Train a model on this machine, and record everything."""
    from collectors.configuration import describe_toml
    from collectors.settings import Settings
    from engine.faults.registry import check_faults
    from engine.training.config import RunConfig

    if example:
        print_data(describe_toml(RunConfig))
        return
    settings = Settings.from_environment()
    home = settings.home
    run = None if resume is None else _find_run(home, resume, config)
    layers = _layers(config, run, data or [], fault or [], overrides or [])
    if init_from is not None:
        layers.insert(-1, _origin(init_from, run))
    resolved = _with_ranks(layers, nproc)
    value = resolved.value
    check_faults(value.faults, ranks=value.parallel.world_size, steps=value.train.steps)
    if dry_run:
        _print_configuration(resolved, as_json=json)
        return
    if print_job:
        _print_job(print_job, resolved)
        return
    require_engine()
    start_collecting(settings)
    result = _launch(value, home, run)
    if json:
        print_json(_document(result))
    _tell(result)
    if result.exit_code:
        raise typer.Exit(result.exit_code)


def _find_run(home: Path, reference: str, config: Path | None) -> RunDirectory:
    from collectors.errors import UsageError
    from collectors.run import RunDirectory

    if config is not None:
        raise UsageError(
            "a resumed run keeps its own configuration",
            where=str(config),
            remedy="leave the file out; change single values with --set",
        )
    return RunDirectory.open(home, reference, kind="training")


def _layers(
    config: Path | None,
    run: RunDirectory | None,
    data: list[str],
    faults: list[str],
    overrides: list[str],
) -> list[Layer]:
    """Where values come from, the last word last."""
    from collectors.configuration import OVERRIDES, apply_overrides, load_toml

    layers: list[Layer] = []
    if config is not None:
        layers.append((str(config), load_toml(config)))
    if run is not None:
        # Its faults are over; --fault asks for new ones.
        layers.append((f"run {run.run_id}", {**run.manifest.config, "faults": []}))
    if data:
        paths = [str(Path(path).expanduser().absolute()) for path in data]
        layers.append(("--data", {"data": {"paths": paths}}))
    if faults:
        layers.append(("--fault", {"faults": faults}))
    layers.append((OVERRIDES, apply_overrides({}, overrides)))
    return layers


def _origin(directory: str, run: RunDirectory | None) -> Layer:
    """The shape of the model to begin with; its weights are read by the ranks."""
    from collectors.errors import UsageError
    from engine.models.huggingface import load_config

    if run is not None:
        raise UsageError(
            "a resumed run goes on with its own weights",
            where="--init-from",
            remedy="leave it out, or start a new run",
        )
    path = Path(directory).expanduser().absolute()
    model = load_config(path).model_dump(mode="json")
    return "--init-from", {"model": model, "train": {"init_from": str(path)}}


def _with_ranks(layers: list[Layer], nproc: int | None) -> Resolved[RunConfig]:
    """Resolve, with the axis that nobody set following from the number of ranks."""
    from collectors.configuration import DEFAULT, resolve
    from collectors.errors import ConfigError
    from engine.training.config import RunConfig

    resolved = resolve(RunConfig, layers)
    parallel = resolved.value.parallel
    if nproc is None or nproc == parallel.world_size:
        return resolved
    for free, fixed in (
        ("dp", parallel.tp * parallel.pp),
        ("tp", parallel.dp * parallel.pp),
    ):
        if resolved.provenance[f"parallel.{free}"] == DEFAULT and nproc % fixed == 0:
            return resolve(RunConfig, [*layers, ("--nproc", {"parallel": {free: nproc // fixed}})])
    raise ConfigError(
        f"{nproc} ranks cannot be parallel.tp ({parallel.tp}) x parallel.pp ({parallel.pp})"
        f" x parallel.dp ({parallel.dp})",
        where="--nproc",
        remedy="make --nproc their product, or leave it out",
    )


def _print_configuration(resolved: Resolved[RunConfig], *, as_json: bool) -> None:
    from collectors.configuration import render_toml

    if as_json:
        configuration = resolved.value.model_dump(mode="json")
        print_json({"config": configuration, "sources": resolved.provenance})
    else:
        print_data(render_toml(resolved.value, resolved.provenance))


def _print_job(kind: Literal["sbatch", "jobset"], resolved: Resolved[RunConfig]) -> None:
    from engine.supervision.job_file import job_file

    if not resolved.value.resilience.recover:
        narrate("note: without --set resilience.recover=true the job ends with its first fault")
    command = _without_print(["opsuite", *sys.argv[1:]])
    print_data(job_file(kind, resolved.value, command, standbys=1))


def _without_print(command: list[str]) -> list[str]:
    """What each host is to run."""
    kept = [each for each in command if not each.startswith("--print=")]
    if "--print" in kept:
        at = kept.index("--print")
        del kept[at : at + 2]
    return kept


def _launch(config: RunConfig, home: Path, resume: RunDirectory | None) -> LaunchResult:
    from engine.supervision.environment import host_of_job
    from engine.supervision.joining import launch_or_join
    from engine.supervision.launching import launch_resilient
    from engine.training.launcher import launch as launch_once

    how: dict[str, Any] = {
        "home": home,
        "command": sys.argv,
        "narrate": narrate,
        "watch": lambda run: _watched(run, config),
    }
    if not config.resilience.recover:
        return launch_once(config, resume=resume, **how)
    host = host_of_job()
    if host is not None and resume is None:
        return launch_or_join(config, host, **how)
    return launch_resilient(config, resume=resume, **how)


@contextmanager
def _watched(run: RunDirectory, config: RunConfig) -> Iterator[None]:
    """Around the ranks: their progress, and who looks for hangs."""
    from collectors.settings import Settings
    from opsuite.job_news import JobNews
    from opsuite.straggler_watch import StragglerWatch
    from opsuite.watchdog.guard import Guard
    from tui.progress import show_progress

    settings = Settings.from_environment()
    with (
        Guard(run, wanted=settings.watchdog and settings.record),
        JobNews(run.path, wanted=config.resilience.recover),
        StragglerWatch(settings.home, run, wanted=settings.record and config.resilience.recover),
        show_progress(run, total_steps=config.train.steps),
    ):
        yield


def _tell(result: LaunchResult) -> None:
    """What came of it; what went wrong comes last."""
    training = result.training
    for warning in training.warnings if training else ():
        narrate(f"warning: {warning}")
    if training and not result.problem:
        rate = f", {training.tokens_per_s:,.0f} tokens/s" if training.tokens_per_s else ""
        narrate(f"finished {training.steps} steps: loss {training.loss:.3f}{rate}{_mfu(training)}")
        narrate(training.terms)
        narrate(f"model: {training.model or 'none was written'}")
        narrate(f"next: opsuite diagnose {result.run.run_id}")
    if result.problem:
        narrate(f"run {result.run.run_id} {result.status}")
        if any(result.run.checkpoints.glob("step-*[0-9]")):
            narrate(
                f"to go on from its last checkpoint: opsuite launch --resume {result.run.run_id}"
            )
        narrate(result.problem)


def _mfu(training: JobResult) -> str:
    if training.mfu is None or training.mfu_causal is None:
        return ""
    return f", MFU {training.mfu:.1%} ({training.mfu_causal:.1%} causal)"


def _document(result: LaunchResult) -> dict[str, Any]:
    training, failure = result.training, result.failure
    return {
        "run_id": result.run.run_id,
        "status": result.status,
        "exit_code": result.exit_code,
        "steps": training.steps if training else None,
        "loss": training.loss if training and math.isfinite(training.loss) else None,
        "tokens_per_s": training.tokens_per_s if training else None,
        "mfu": training.mfu if training else None,
        "mfu_causal": training.mfu_causal if training else None,
        "accounting": training.terms if training else None,
        "checkpoint": training.checkpoint if training else None,
        "model": training.model if training else None,
        "warnings": list(training.warnings) if training else [],
        "problem": result.problem,
        "failure": {
            "rank": failure.rank,
            "host": failure.host,
            "signal": failure.signal,
            "exit_code": failure.exit_code,
            "log": str(failure.log),
        }
        if failure
        else None,
    }
