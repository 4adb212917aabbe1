"""One rank, from its job to its result."""

from __future__ import annotations

import os
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.clock import host_name
from collectors.errors import DataError, StorageError
from collectors.recorder import Identity, NullRecorder, open_recorder
from collectors.samplers.garbage import GarbageWatch
from collectors.settings import Settings
from engine.faults.marker import markers_of
from engine.faults.place import Place
from engine.faults.registry import inject_all
from engine.groups.group import CurrentStep
from engine.presence.presence import Presence
from engine.training.accounting import Accounting
from engine.training.checkpoint import CheckpointStore, describe
from engine.training.corpus import open_corpus
from engine.training.export import export_model
from engine.training.garbage import CollectionAtStepEnds
from engine.training.host_loader import SharedMemoryOfBatches
from engine.training.job import Job, JobResult
from engine.training.loader import make_loader
from engine.training.mesh import coordinates, open_mesh
from engine.training.phases import Phases
from engine.training.replica import build_replica
from engine.training.restoring import begin_from, restore
from engine.training.saver import Saver
from engine.training.shared_batches import SharedBatches
from engine.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from collectors.board import Board
    from collectors.recorder import Recorder
    from engine.step_hook import StepHook
    from engine.training.accounting import Terms
    from engine.training.batch import Batches
    from engine.training.config import RunConfig
    from engine.training.corpus import Corpus
    from engine.training.mesh import Mesh
    from engine.training.replica import Replica
    from engine.training.trainer import TrainingResult
    from engine.training.witness import Witness


def train_rank(run: Path, job: Job, config: RunConfig) -> None:
    """Do this rank's part of ``job``, recorded (its place comes from torchrun's environment)."""
    with (
        closing(open_rank_recorder(run, job, config)) as recorder,
        present(run, config, recorder) as board,
    ):
        train_recorded(run, job, config, recorder, board=board)


@contextmanager
def present(run: Path, config: RunConfig, recorder: Recorder) -> Iterator[Board | None]:
    """Let others see what this rank does, and at last how it ended."""
    if not Settings.from_environment().record:
        yield None
        return
    rank, world_size = int(os.environ["RANK"]), config.parallel.world_size
    presence = Presence(run, rank=rank, world_size=world_size)
    garbage = GarbageWatch(recorder)
    garbage.start()
    well = False
    try:
        yield presence.board
        well = True
    finally:
        garbage.stop()
        presence.leave(well=well)


def train_recorded(
    run: Path,
    job: Job,
    config: RunConfig,
    recorder: Recorder,
    *,
    hooks: Callable[[Mesh, Replica], Sequence[StepHook]] = lambda mesh, replica: (),
    board: Board | None = None,
    begin: Callable[[Mesh, Replica], Witness | None] | None = None,
) -> None:
    """The same with a recorder that the caller opened, and with ``hooks`` around every step.

    Args:
        hooks: makes them, of this rank's groups and what it trains.
        begin: called once the replica is there; it may set its state, and gives who is told what
            each step comes to.
    """
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    current_step = CurrentStep(board=board)
    with open_mesh(
        config.parallel,
        rank=rank,
        local_rank=local_rank,
        recorder=recorder,
        current_step=current_step,
    ) as mesh:
        corpus = open_corpus(Path(job.corpus))
        if corpus is None:
            raise DataError("the prepared corpus is gone or damaged", where=job.corpus)
        result, saver, terms = _train(
            run=run,
            job=job,
            config=config,
            corpus=corpus,
            mesh=mesh,
            recorder=recorder,
            current_step=current_step,
            hooks=hooks,
            begin=begin,
        )
        if rank == 0:
            model, problem = _export(run, saver)
            JobResult(
                steps=result.steps,
                loss=result.loss,
                tokens_per_s=result.achieved.tokens_per_s if result.achieved else None,
                mfu=result.achieved.mfu if result.achieved else None,
                mfu_causal=result.achieved.mfu_causal if result.achieved else None,
                terms=str(terms),
                checkpoint=str(saver.latest) if saver.latest else None,
                model=str(model) if model else None,
                warnings=(*saver.warnings, *problem, *_slow_ways(mesh)),
            ).write(run)


def _export(run: Path, saver: Saver) -> tuple[Path | None, tuple[str, ...]]:
    """The last checkpoint as others load it; what went wrong is a warning."""
    if saver.latest is None:
        return None, ()
    try:
        return export_model(describe(saver.latest), run / "model"), ()
    except StorageError as error:
        return None, (f"no model directory was written: {error}",)


def _slow_ways(mesh: Mesh) -> Iterator[str]:
    if mesh.tp.why_collective:
        yield f"tp ranks communicated through torch.distributed: {mesh.tp.why_collective}"


def open_rank_recorder(run: Path, job: Job, config: RunConfig) -> Recorder:
    """This rank's recorder, or one that records nothing where the settings say so."""
    rank = int(os.environ["RANK"])
    if not Settings.from_environment().record:
        return NullRecorder()
    identity = Identity(
        run_id=job.run_id,
        role="trainer",
        rank=rank,
        world_size=config.parallel.world_size,
        host=host_name(),
        coordinates=coordinates(rank, config.parallel),
    )
    return open_recorder(run / "spool", identity)


def _train(
    *,
    run: Path,
    job: Job,
    config: RunConfig,
    corpus: Corpus,
    mesh: Mesh,
    recorder: Recorder,
    current_step: CurrentStep,
    hooks: Callable[[Mesh, Replica], Sequence[StepHook]],
    begin: Callable[[Mesh, Replica], Witness | None] | None,
) -> tuple[TrainingResult, Saver, Terms | None]:
    phases = Phases(recorder, current_step)
    replica = build_replica(config, mesh, phases, recorder)
    if job.resume_from:
        restore(describe(Path(job.resume_from)), replica.optimizer, mesh)
    elif config.train.init_from:
        begin_from(Path(config.train.init_from), replica.optimizer, mesh)
    witness = begin(mesh, replica) if begin is not None else None
    saver = Saver(
        store=CheckpointStore(run / "checkpoints", config.checkpoint.keep),
        model=config.model,
        optimizer=replica.optimizer,
        mesh=mesh,
        tokenizer_json=corpus.tokenizer_json,
        corpus=corpus.directory.name,
        recorder=recorder,
    )
    accounting = Accounting(config, mesh, recorder, pinned=bool(job.cores))
    trainer = Trainer(
        config=config,
        replica=replica,
        batches=_batches(job, config, corpus, mesh),
        mesh=mesh,
        phases=phases,
        recorder=recorder,
        current_step=current_step,
        saver=saver,
        accounting=accounting,
        hooks=[
            *_injectors(run, job, config, rank=mesh.rank, recorder=recorder, replica=replica),
            *hooks(mesh, replica),
            *([CollectionAtStepEnds(recorder)] if config.train.own_gc else []),
        ],
        witness=witness,
    )
    return trainer.train(job.first_step, job.first_sample), saver, accounting.terms


def _batches(job: Job, config: RunConfig, corpus: Corpus, mesh: Mesh) -> Batches:
    """From the host's loader, where there is one."""
    if job.batches is None:
        return make_loader(config, corpus, mesh.dp.rank)
    memory = SharedMemoryOfBatches.from_json(job.batches)
    share = memory.slots.rows // mesh.dp.size
    return SharedBatches(
        memory.path,
        memory.slots,
        reader=int(os.environ["LOCAL_RANK"]),
        share=slice(mesh.dp.rank * share, (mesh.dp.rank + 1) * share),
    )


def _injectors(
    run: Path, job: Job, config: RunConfig, *, rank: int, recorder: Recorder, replica: Replica
) -> list[StepHook]:
    place = Place(
        rank=rank,
        world_size=config.parallel.world_size,
        cores=job.cores[rank] if job.cores else (),
        unpinned=job.unpinned,
        recorder=recorder,
        markers=markers_of(run),
        modules=replica.parts,
    )
    return inject_all(config.faults, place)
