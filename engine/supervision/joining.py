"""A job whose hosts Slurm or Kubernetes started: the first launches it, the others join."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from collectors.errors import TimedOut, Unreachable
from collectors.run import RunDirectory
from engine.supervision.job_spec import JobSpec
from engine.supervision.launching import launch_resilient, supervise
from engine.supervision.supervisor import Member, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engine.supervision.environment import HostOfJob
    from engine.training.config import RunConfig
    from engine.training.launcher import LaunchResult

_LOOK_S = 0.5


def launch_or_join(
    config: RunConfig,
    host: HostOfJob,
    *,
    home: Path,
    command: list[str],
    narrate: Callable[[str], None],
    watch: Callable[[RunDirectory], AbstractContextManager[object]] = nullcontext,
) -> LaunchResult:
    """This host's part of a job, which all its hosts call so, with one ``home`` that all see.

    A job that exists already, since its first host was started again, goes on.

    Raises:
        TimedOut: the first host does not launch the job.
        UsageError, DataError, StorageError: as :func:`launch_resilient`.
    """
    run_id = f"{config.name}-{host.job}"
    path = home / "runs" / run_id
    executors = [Member(name=host.name, address=host.address)]
    driver = Member(name="driver", address=host.address) if host.index == 0 else None
    if driver is not None and not _launched(path):
        return launch_resilient(
            config,
            home=home,
            command=command,
            narrate=narrate,
            watch=watch,
            run_id=run_id,
            driver=driver,
            executors=executors,
        )
    limit = config.resilience.gather_s
    end = time.monotonic() + limit
    while not _launched(path):
        if time.monotonic() > end:
            raise TimedOut(
                f"the first host, {host.first}, has not launched the job within {limit:g} s",
                where=str(path),
                remedy="see its output; OPSUITE_HOME must lie on storage that all hosts see",
            )
        time.sleep(_LOOK_S)
    run = RunDirectory.load(path)
    narrate(f"{host.name} joins run {run_id}")
    supervisor = Supervisor(run=path, driver=driver, executors=executors, on_start=narrate)
    return supervise(run, supervisor, watch=watch if driver else nullcontext)


def _launched(path: Path) -> bool:
    try:
        JobSpec.read(path)
    except Unreachable:
        return False
    return True
