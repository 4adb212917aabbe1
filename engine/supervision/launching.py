"""Launching a job that recovers from faults: prepared as any run, then supervised."""

from __future__ import annotations

import shutil
import signal
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from collectors.clock import host_name
from collectors.stop_request import StopRequest, heeded, made_by
from engine.faults.marker import forget_strikes
from engine.supervision.job_spec import DRIVER, JobSpec
from engine.supervision.supervisor import Member, Supervisor
from engine.supervision.wire import make_key
from engine.training.failure import Finished, Interrupted
from engine.training.job import JobResult
from engine.training.launcher import FAILED, INTERRUPTED, LaunchResult, begin, conclude, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from collectors.run import RunDirectory
    from engine.training.checkpoint import Checkpoint
    from engine.training.config import RunConfig
    from engine.training.corpus import Corpus

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def launch_resilient(
    config: RunConfig,
    *,
    home: Path,
    command: list[str],
    narrate: Callable[[str], None],
    watch: Callable[[RunDirectory], AbstractContextManager[object]] = nullcontext,
    resume: RunDirectory | None = None,
    run_id: str | None = None,
    driver: Member | None = None,
    executors: Sequence[Member] = (),
    accompany: Callable[[Supervisor], AbstractContextManager[object]] = nullcontext,
) -> LaunchResult:
    """Train as ``config`` says, through faults, until the end or a signal.

    Args:
        run_id: of a new run, where others must know it.
        driver, executors: the processes to start here, and where; by default a driver and as many
            executors as the job has hosts, all on the loopback of this one.
        accompany: around the time that the job runs, with who keeps its processes.

    Raises:
        UsageError, DataError, StorageError: as :func:`engine.training.launcher.launch`.
    """
    start, corpus = prepare(config, home=home, narrate=narrate, resume=resume)
    run = begin(config, home, command, resume, run_id)
    make_key(run.path)
    JobResult.clear(run.path)
    shutil.rmtree(run.path / DRIVER, ignore_errors=True)  # of a job that is over
    forget_strikes(run.path)
    _spec(run, config, corpus, start).write(run.path)
    supervisor = Supervisor(
        run=run.path,
        driver=driver or Member(name="driver"),
        executors=executors or local_members(config),
        on_start=narrate,
    )
    narrate(f"run {run.run_id}: {config.parallel.world_size} rank(s), logs in {run.logs}")
    return supervise(run, supervisor, watch=watch, accompany=accompany)


def supervise(
    run: RunDirectory,
    supervisor: Supervisor,
    *,
    watch: Callable[[RunDirectory], AbstractContextManager[object]] = nullcontext,
    accompany: Callable[[Supervisor], AbstractContextManager[object]] = nullcontext,
) -> LaunchResult:
    """Keep the job's processes on this host alive until it is over."""
    result = LaunchResult(run=run, status=FAILED, training=None, problem="the launcher failed")
    stop = StopRequest()
    try:
        with made_by(stop, *heeded(_SIGNALS)), watch(run):
            supervisor.start()
            try:
                with accompany(supervisor):
                    told = supervisor.wait(stop)
            finally:
                supervisor.close()
        result = _conclude(run, told, interrupted=stop.made)
    finally:
        if supervisor.driver is not None:
            run.finish(result.status, result.exit_code)
    return result


def local_members(config: RunConfig) -> list[Member]:
    """Executors on this host alone, as many as the job has hosts."""
    names = [host_name()]
    if config.resilience.hosts > 1:
        names = [f"{host_name()}-{number}" for number in range(config.resilience.hosts)]
    return [Member(name=name) for name in names]


def _spec(
    run: RunDirectory, config: RunConfig, corpus: Corpus, start: Checkpoint | None
) -> JobSpec:
    return JobSpec(
        run_id=run.run_id,
        config=config.model_dump(mode="json"),
        corpus=str(corpus.directory),
        first_step=start.step + 1 if start else 1,
        first_sample=start.progress.samples if start else 0,
        resume_from=str(start.path) if start else None,
    )


def _conclude(run: RunDirectory, told: dict[str, Any], *, interrupted: bool) -> LaunchResult:
    if told["status"] == "finished":
        return conclude(run, Finished())
    if interrupted:
        return conclude(run, Interrupted(signal="a signal"))
    training = JobResult.read(run.path)
    status = INTERRUPTED if told["status"] == "stopped" else FAILED
    return LaunchResult(run=run, status=status, training=training, problem=told["reason"])
