"""A rank under an executor: forked from a warm process, with its state from memory or disk."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from engine.lifeline import end_with_parent
from engine.training.config import RunConfig
from engine.training.failure import log_path
from engine.training.job import Job
from engine.training.worker import log_to, settle

if TYPE_CHECKING:
    from engine.supervision.rank_link import RankEnd
    from engine.training.mesh import Mesh
    from engine.training.replica import Replica
    from engine.training.witness import Witness


def run_rank(run: str, job_file: str) -> None:
    """Train one rank of the attempt that ``job_file`` describes."""
    import torch
    from torch.distributed.elastic.multiprocessing.errors import record

    from engine.supervision import rank_link
    from engine.training.error_report import ErrorReport

    end_with_parent()
    rank = int(os.environ["RANK"])
    log_to(log_path(Path(run) / "logs", rank))
    job = Job.read_from(Path(job_file))
    config = RunConfig.model_validate(job.config)
    settle(job, config)
    torch.set_num_threads(config.parallel.threads_per_rank)
    link = rank_link.RankEnd(job.executor, rank=rank, attempt=job.attempt)
    try:
        record(_train, ErrorReport())(Path(run), job, config, link)
    except BaseException:
        # Torch's agent wraps functions in a report of its own, which would replace ours.
        os.environ.pop("TORCHELASTIC_ERROR_FILE", None)
        raise


def _train(run: Path, job: Job, config: RunConfig, link: RankEnd) -> None:
    from engine.supervision.reporter import Reporter
    from engine.supervision.snapshot import restore_from
    from engine.training.session import open_rank_recorder, present, train_recorded

    def begin(mesh: Mesh, replica: Replica) -> Witness:
        if job.from_memory:
            restore_from(link.want(job.first_step - 1), replica.optimizer)
        every = config.resilience.snapshot_every
        return Reporter(link, replica.optimizer, rank=mesh.rank, every=every)

    with (
        closing(link),
        closing(open_rank_recorder(run, job, config)) as recorder,
        present(run, config, recorder) as board,
    ):
        train_recorded(run, job, config, recorder, board=board, begin=begin)
        link.say("finished")
