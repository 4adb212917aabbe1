"""One attempt's ranks on one host: what is prepared for them, what they do, and their end."""

from __future__ import annotations

import zlib
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from engine.resilience.messages import Ended, Resume
from engine.supervision.host_view import HostView, LogLines, killed_for_memory
from engine.supervision.job_spec import DRIVER
from engine.supervision.task import Task
from engine.training.affinity import available_cores, plan_affinity
from engine.training.checkpoint import CheckpointStore, describe
from engine.training.failure import log_path
from engine.training.host_loader import host_loader, shared_memory
from engine.training.job import Job, JobResult

if TYPE_CHECKING:
    from pathlib import Path

    from engine.resilience.messages import Place, Start
    from engine.supervision.job_spec import JobSpec
    from engine.supervision.warm_ranks import WarmRanks
    from engine.training.config import RunConfig

_PORTS = range(20_000, 30_000)


def meeting_port(run_id: str, attempt: int) -> int:
    """Where the ranks of an attempt meet: every host computes it. Each attempt has another, so that
    one that is taken costs one attempt."""
    return _PORTS[(zlib.crc32(run_id.encode()) + 7919 * attempt) % len(_PORTS)]


class HostAttempt:
    """This host's part of an attempt.

    Args:
        socket: of the executor, for ranks.
        pid: of the executor, which the loader must not outlive.
    """

    def __init__(
        self,
        order: Start,
        *,
        host: str,
        run: Path,
        spec: JobSpec,
        config: RunConfig,
        socket: Path,
        pid: int,
    ) -> None:
        self.order = order
        self.place: Place = next(place for place in order.places if place.host == host)
        self.pids: dict[int, int] = {}
        self.began: set[int] = set()
        self.finished: set[int] = set()
        self._host = host
        self._run = run
        self._spec = spec
        self._config = config
        self._socket = socket
        self._pid = pid
        self.view = HostView(run / "boards", self.pids)
        logs = [log_path(run / "logs", rank) for rank in self.place.ranks]
        self.lines = LogLines(logs, config.resilience.keywords)

    async def run(self, warm: WarmRanks) -> Ended:
        """Prepare, run the ranks, and wait for their end."""
        try:
            with ExitStack() as stack:
                told = await warm.run(self._prepare(stack))
        except Exception as error:  # noqa: BLE001 - whatever it was, the driver must hear of it
            told = {"well": False, "what": f"{type(error).__name__}: {error}"[:500]}
        self.view.close()
        return self._ended(told)

    def _prepare(self, stack: ExitStack) -> Task:
        directory = self._run / DRIVER / f"{self._host}-{self.order.attempt}"
        directory.mkdir(parents=True, exist_ok=True)
        if self.place.first == 0:
            self._give_up_the_rest()
        batches = stack.enter_context(shared_memory(self._config, self.place.count))
        job = self._job(batches.to_json() if batches else None)
        job_file = directory / "job.json"
        job.write_to(job_file)
        if batches is not None:
            logs = self._run / "logs"
            stack.enter_context(host_loader(self._run, logs, batches, job_file))
        places = self.order.places
        address = self.place.address.rpartition(":")[0]
        meet = places[0].address.rpartition(":")[0]
        return Task(
            run=str(self._run),
            run_id=self._spec.run_id,
            job=str(job_file),
            name=f"{self._spec.run_id}-{self.order.attempt}",
            hosts=len(places),
            host=places.index(self.place),
            ranks=self.place.count,
            address=address,
            meet=f"{meet}:{meeting_port(self._spec.run_id, self.order.attempt)}",
            meet_s=self._config.resilience.start_s / 2,
            errors=str(directory),
        )

    def _job(self, batches: dict[str, Any] | None) -> Job:
        step, resume = self.order.step, self.order.resume
        checkpoint = self._run / "checkpoints" / f"step-{step:06d}"
        if resume is Resume.NOTHING or (resume is Resume.DISK and not checkpoint.is_dir()):
            checkpoint_path, samples = self._spec.resume_from, self._spec.first_sample
        elif resume is Resume.DISK:
            checkpoint_path, samples = str(checkpoint), describe(checkpoint).progress.samples
        else:
            checkpoint_path, samples = None, self._spec.samples_before(step + 1)
        plan = plan_affinity(
            available_cores(),
            ranks=self.place.count,
            threads=self._config.parallel.threads_per_rank,
            pin=self._config.parallel.pin and self._config.resilience.hosts == 1,
        )
        return Job(
            run_id=self._spec.run_id,
            config=self._spec.config,
            corpus=self._spec.corpus,
            first_step=step + 1,
            first_sample=samples,
            batches=batches,
            resume_from=checkpoint_path,
            cores=plan.cores,
            unpinned=plan.reason,
            launcher_pid=self._pid,
            attempt=self.order.attempt,
            executor=str(self._socket),
            from_memory=resume is Resume.MEMORY,
        )

    def _give_up_the_rest(self) -> None:
        """What lies on the disk of steps that the job has gone back from, and its result."""
        CheckpointStore(self._run / "checkpoints", 1).remove_after(self.order.step)
        JobResult.clear(self._run)

    def _ended(self, told: dict[str, Any]) -> Ended:
        killed = told.get("signal") == "SIGKILL" and killed_for_memory(self.pids.values())
        return Ended(
            host=self._host,
            attempt=self.order.attempt,
            well=told["well"],
            rank=told.get("rank", -1),
            signal=told.get("signal", ""),
            what=told.get("what", ""),
            out_of_memory=killed,
            lost_peer=told.get("lost_peer", False),
        )
