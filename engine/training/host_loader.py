"""One loader for all ranks of a host: ``python -P -m engine.training.host_loader RUN_DIR``.

Tensor- and pipeline-parallel ranks read the same data, so a host reads it once (MegaScale, section
3.4): the launcher starts this process beside its ranks, and it fills batches into memory that all
of them map, some steps ahead, while they compute and communicate.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collectors.clock import host_name
from collectors.errors import DataError
from collectors.recorder import Identity, NullRecorder, open_recorder
from collectors.settings import Settings
from engine.lifeline import end_with
from engine.training.shared_batches import Publisher, Slots, create_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collectors.recorder import Recorder
    from engine.training.config import RunConfig
    from engine.training.job import Job

_AHEAD = 3  # batches that are ready or being read


@dataclass(frozen=True, kw_only=True)
class SharedMemoryOfBatches:
    """Where ranks find their host's batches.

    Attributes:
        path: of the memory, for as long as the launcher lives.
        slots: its shape.
    """

    path: str
    slots: Slots

    def to_json(self) -> dict[str, Any]:
        """As data."""
        return {"path": self.path, "slots": asdict(self.slots)}

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Its descriptor."""
        descriptor = os.open(self.path, os.O_RDWR)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SharedMemoryOfBatches:
        """Back from data."""
        return cls(path=data["path"], slots=Slots(**data["slots"]))


@contextmanager
def shared_memory(config: RunConfig, readers: int) -> Iterator[SharedMemoryOfBatches | None]:
    """Memory for the batches of a host's ranks; None where one reads by itself, or none can map."""
    from engine.peers.machine import unusable_here

    if readers == 1 or not config.data.share or unusable_here():
        yield None
        return
    slots = Slots(
        count=_AHEAD,
        readers=readers,
        rows=config.train.batch_size,
        seq_len=config.data.seq_len,
    )
    descriptor = create_memory(slots)
    try:
        yield SharedMemoryOfBatches(path=f"/proc/{os.getpid()}/fd/{descriptor}", slots=slots)
    finally:
        os.close(descriptor)


@contextmanager
def host_loader(
    run: Path, logs: Path, memory: SharedMemoryOfBatches, job: Path | None = None
) -> Iterator[None]:
    """Around the ranks: their loader, which ends with them; if it ends badly, they are told.

    Args:
        job: the file with the ranks' job; None: the run's.
    """
    logs.mkdir(parents=True, exist_ok=True)
    which = [str(job)] if job is not None else []
    with (logs / "loader.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "engine.training.host_loader", str(run), *which],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    watch = threading.Thread(target=_watch, args=(process, memory), daemon=True)
    watch.start()
    try:
        yield
    finally:
        process.terminate()
        watch.join()


def _watch(process: subprocess.Popen[bytes], memory: SharedMemoryOfBatches) -> None:
    if process.wait():
        with memory.opened() as descriptor:
            Publisher(descriptor, memory.slots, 0).fail()


def main() -> None:
    """Load for the ranks of a run."""
    from engine.training.config import RunConfig
    from engine.training.job import Job

    run = Path(sys.argv[1])
    job = Job.read_from(Path(sys.argv[2])) if len(sys.argv) > 2 else Job.read(run)
    end_with(job.launcher_pid)
    config = RunConfig.model_validate(job.config)
    assert job.batches is not None
    memory = SharedMemoryOfBatches.from_json(job.batches)
    recorder = _open_recorder(run, job, config)
    with memory.opened() as descriptor:
        publisher = Publisher(descriptor, memory.slots, job.first_step)
    try:
        load(job, config, publisher, recorder)
    except BaseException:
        publisher.fail()
        raise
    finally:
        recorder.close()


def load(job: Job, config: RunConfig, publisher: Publisher, recorder: Recorder) -> None:
    """Fill in the batch of every step to come."""
    from engine.training.corpus import open_corpus
    from engine.training.loader import make_loader

    corpus = open_corpus(Path(job.corpus))
    if corpus is None:
        raise DataError("the prepared corpus is gone or damaged", where=job.corpus)
    loader = make_loader(config, corpus)
    size = config.train.batch_size
    for index, step in enumerate(range(job.first_step, config.train.steps + 1)):
        first = job.first_sample + index * size
        with recorder.span("load", step):
            windows, ids = loader.windows(first)
        recorder.sample("bytes_read", loader.bytes_read, step)
        publisher.publish(step, windows, ids)


def _open_recorder(run: Path, job: Job, config: RunConfig) -> Recorder:
    if not Settings.from_environment().record:
        return NullRecorder()
    identity = Identity(
        run_id=job.run_id,
        role="loader",
        rank=None,
        world_size=config.parallel.world_size,
        host=host_name(),
        coordinates={},
    )
    return open_recorder(run / "spool", identity)


if __name__ == "__main__":
    main()
