"""The entry of a rank: ``python -P -m engine.training.worker RUN_DIR``, started by the launcher."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from engine.lifeline import end_with
from engine.training.affinity import pin_process
from engine.training.config import RunConfig
from engine.training.failure import log_path
from engine.training.job import Job

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Train one rank."""
    run_rank(_train)


def run_rank(train: Callable[[Path, Job, RunConfig], None]) -> None:
    """Settle on this rank's cores, then train; an error is left for the launcher to read.

    Args:
        train: given the run directory and what is to be done; it may import torch only now.
    """
    run = Path(sys.argv[1])
    log_to(log_path(run / "logs", int(os.environ["RANK"])))
    job = Job.read(run)
    end_with(job.launcher_pid)
    config = RunConfig.model_validate(job.config)
    settle(job, config)

    # Only now: torch sizes its thread pools, and starts threads, when it is imported.
    import torch
    from torch.distributed.elastic.multiprocessing.errors import record

    from engine.training.error_report import ErrorReport

    torch.set_num_threads(config.parallel.threads_per_rank)
    record(train, ErrorReport())(run, job, config)


def _train(run: Path, job: Job, config: RunConfig) -> None:
    from engine.training.session import train_rank

    train_rank(run, job, config)


def log_to(log: Path) -> None:
    """Send all output, also that of C++, to one file; an earlier attempt's lines stay."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)


def settle(job: Job, config: RunConfig) -> None:
    """Take this rank's cores and threads, before torch makes threads."""
    os.environ["OMP_NUM_THREADS"] = str(config.parallel.threads_per_rank)
    # Where nobody says otherwise, all ranks are on this host: gloo must not depend on what its
    # name resolves to.
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    if job.cores:
        pin_process(job.cores[int(os.environ["LOCAL_RANK"])])


if __name__ == "__main__":
    main()
