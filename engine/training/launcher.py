"""From a configuration to a finished run: what ``opsuite launch`` and the demo call."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.errors import ConfigError, DataError, UsageError
from collectors.run import RunDirectory
from engine.faults.grammar import parse_fault
from engine.faults.marker import forget_strikes
from engine.faults.registry import RANK_FAULTS, check_faults
from engine.training.affinity import available_cores, plan_affinity
from engine.training.checkpoint import CheckpointStore
from engine.training.config import RunConfig
from engine.training.corpus import Vocabulary, open_corpus, prepare_corpus
from engine.training.failure import Finished, Interrupted, RankFailure
from engine.training.host_loader import host_loader, shared_memory
from engine.training.job import Job, JobResult
from engine.training.loader import make_loader

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.training.affinity import AffinityPlan
    from engine.training.checkpoint import Checkpoint
    from engine.training.corpus import Corpus
    from engine.training.host_loader import SharedMemoryOfBatches

FINISHED, FAILED, INTERRUPTED = "finished", "failed", "interrupted"
_EXIT_CODES = {FINISHED: 0, FAILED: 1, INTERRUPTED: 130}


@dataclass(frozen=True, kw_only=True)
class LaunchResult:
    """How a launch ended.

    Attributes:
        run: its directory.
        status: "finished", "failed" or "interrupted".
        exit_code: 0, 1 or 130.
        training: what rank 0 reported, or None where it did not come to its end.
        problem: why it failed or was interrupted, for people; "" where it finished.
        failure: the first failing rank, where one failed.
    """

    run: RunDirectory
    status: str
    training: JobResult | None
    problem: str = ""
    failure: RankFailure | None = None

    @property
    def exit_code(self) -> int:
        """What the command should exit with."""
        return _EXIT_CODES[self.status]


def launch(
    config: RunConfig,
    *,
    home: Path,
    command: list[str],
    narrate: Callable[[str], None],
    watch: Callable[[RunDirectory], AbstractContextManager[object]] = nullcontext,
    resume: RunDirectory | None = None,
    worker: str = "engine.training.worker",
) -> LaunchResult:
    """Train as ``config`` says, on this host, until the end or a signal.

    Call it from the main thread: the agent handles signals.

    Args:
        command: the command line, for the manifest.
        narrate: told what goes on, a line at a time.
        watch: makes the context in which the ranks run, such as a progress display.
        resume: a run to continue in its own directory, from its newest whole checkpoint.
        worker: the module that a rank runs.

    Raises:
        UsageError: the run cannot be as configured; nothing was started.
        DataError: the data, or every checkpoint to resume from, is unusable.
        StorageError: the disk refused.
    """
    plan = _plan(config, narrate)
    start, corpus = prepare(config, home=home, narrate=narrate, resume=resume)
    run = begin(config, home, command, resume)
    result = LaunchResult(run=run, status=FAILED, training=None, problem="the launcher failed")
    try:
        with shared_memory(config, config.parallel.world_size) as batches:
            _hand_over(run, config, corpus, start=start, plan=plan, batches=batches)
            narrate(f"run {run.run_id}: {config.parallel.world_size} rank(s), logs in {run.logs}")
            with watch(run), _loading(run, batches):
                outcome = run_ranks(run, config.parallel.world_size, worker)
        result = conclude(run, outcome)
    finally:
        run.finish(result.status, result.exit_code)
    return result


def prepare(
    config: RunConfig,
    *,
    home: Path,
    narrate: Callable[[str], None],
    resume: RunDirectory | None,
) -> tuple[Checkpoint | None, Corpus]:
    """What a run begins with: the checkpoint to go on from, if any, and its data.

    Raises:
        UsageError, DataError: the run cannot be as configured.
        StorageError: the disk refused.
    """
    check_faults(config.faults, ranks=config.parallel.world_size, steps=config.train.steps)
    _check_origin(config)
    start = _newest_whole(resume, config, narrate) if resume else None
    corpus = _corpus(config, home, start, narrate)
    make_loader(config, corpus)  # raises where the data does not fill a batch
    _check_devices(config)
    return start, corpus


def _check_origin(config: RunConfig) -> None:
    """The weights to begin with are of a model of this shape."""
    from engine.models.huggingface import load_config

    origin = config.train.init_from
    if origin and load_config(Path(origin)) != config.model:
        raise ConfigError(
            "the model to begin with has another shape",
            where=f"{origin} and the section model",
            remedy="leave model.* out: the shape comes with the weights",
        )


def _loading(
    run: RunDirectory, batches: SharedMemoryOfBatches | None
) -> AbstractContextManager[None]:
    return host_loader(run.path, run.logs, batches) if batches else nullcontext()


def _hand_over(
    run: RunDirectory,
    config: RunConfig,
    corpus: Corpus,
    *,
    start: Checkpoint | None,
    plan: AffinityPlan,
    batches: SharedMemoryOfBatches | None,
) -> None:
    """Leave in the run directory what its ranks will read."""
    JobResult.clear(run.path)
    forget_strikes(run.path)
    Job(
        run_id=run.run_id,
        config=config.model_dump(mode="json"),
        corpus=str(corpus.directory),
        first_step=start.step + 1 if start else 1,
        first_sample=start.progress.samples if start else 0,
        batches=batches.to_json() if batches else None,
        resume_from=str(start.path) if start else None,
        cores=plan.cores,
        unpinned=plan.reason,
        launcher_pid=os.getpid(),
    ).write(run.path)


def run_ranks(
    run: RunDirectory, world_size: int, worker: str
) -> Finished | Interrupted | RankFailure:
    """Start the ranks, through torchrun's agent, and wait for their end."""
    from engine.training import agent  # torch takes seconds: all that can go wrong before has

    return agent.run_ranks(
        run.path, run_id=run.run_id, logs=run.logs, world_size=world_size, worker=worker
    )


def _check_devices(config: RunConfig) -> None:
    from engine.devices import pick_device

    pick_device(config.parallel.device, 0, config.parallel.world_size)


def _plan(config: RunConfig, narrate: Callable[[str], None]) -> AffinityPlan:
    plan = plan_affinity(
        available_cores(),
        ranks=config.parallel.world_size,
        threads=config.parallel.threads_per_rank,
        pin=config.parallel.pin,
    )
    if config.parallel.pin and plan.reason:
        narrate(f"ranks share the cores: {plan.reason}")
    for text in config.faults:
        if reason := parse_fault(text, RANK_FAULTS).unavailable(unpinned=plan.reason):
            narrate(f"fault skipped: {text}: {reason}")
    return plan


def _newest_whole(
    run: RunDirectory, config: RunConfig, narrate: Callable[[str], None]
) -> Checkpoint:
    """The checkpoint to go on from; damaged newer ones are told and passed over."""
    problems: list[DataError] = []
    for found in CheckpointStore(run.checkpoints, config.checkpoint.keep).check_all():
        if not isinstance(found, DataError):
            _check_resumable(found, config)
            for problem in problems:
                narrate(f"warning: a checkpoint is damaged: {problem}")
            narrate(f"resuming after step {found.step}, from {found.path}")
            _tell_new_schedule(run, config, narrate)
            return found
        problems.append(found)
    if problems:
        raise DataError(
            f"every checkpoint of {run.run_id} is damaged: {problems[0].what}",
            where=problems[0].where,
            remedy="start a new run",
        )
    raise UsageError(
        f"{run.run_id} has no checkpoint to resume from",
        where=str(run.checkpoints),
        remedy="start a new run, with checkpoint.every set",
    )


def _tell_new_schedule(
    run: RunDirectory, config: RunConfig, narrate: Callable[[str], None]
) -> None:
    """The one thing that a longer run changes in the past's plans."""
    planned = RunConfig.model_validate(run.manifest.config).decay_steps
    if planned != config.decay_steps:
        narrate(
            f"note: the learning rate was to fall until step {planned}, and now falls until step"
            f" {config.decay_steps}; optimizer.decay_steps={planned} keeps the old plan"
        )


def _check_resumable(checkpoint: Checkpoint, config: RunConfig) -> None:
    from engine.models.huggingface import load_config

    if load_config(checkpoint.path) != config.model:
        raise ConfigError(
            "the checkpoint is of a model of another shape",
            where=f"{checkpoint.path} and the section model",
            remedy="resume without changing model.*",
        )
    if checkpoint.step >= config.train.steps:
        raise UsageError(
            f"nothing is left to do: the run has done {checkpoint.step} of"
            f" {config.train.steps} steps",
            where=str(checkpoint.path),
            remedy=f"add --set train.steps=N with N above {checkpoint.step}",
        )


def _corpus(
    config: RunConfig, home: Path, start: Checkpoint | None, narrate: Callable[[str], None]
) -> Corpus:
    cache = home / "cache" / "corpus"
    origin = Path(config.train.init_from) / "tokenizer.json" if config.train.init_from else None
    vocabulary = Vocabulary(
        size=config.model.vocab_size, end=config.model.end_token, tokenizer=origin
    )
    if start is None:
        return prepare_corpus(config.data, vocabulary, cache, narrate)
    # The tokens as they were, although the sources may have changed since.
    if earlier := open_corpus(cache / start.progress.corpus):
        return earlier
    corpus = prepare_corpus(config.data, vocabulary, cache, narrate)
    if corpus.directory.name != start.progress.corpus:
        raise DataError(
            "the data has changed since the checkpoint, and what was prepared of it is gone",
            where=str(cache / start.progress.corpus),
            remedy="bring the data back as it was, or start a new run",
        )
    return corpus


def begin(
    config: RunConfig,
    home: Path,
    command: list[str],
    resume: RunDirectory | None,
    run_id: str | None = None,
) -> RunDirectory:
    """The run's directory: a new one, or that of the run to go on with."""
    if resume is not None:
        resume.reopen(
            command=command,
            config=config.model_dump(mode="json"),
            world_size=config.parallel.world_size,
        )
        return resume
    return RunDirectory.create(
        home,
        name=config.name,
        kind="training",
        command=command,
        config=config.model_dump(mode="json"),
        world_size=config.parallel.world_size,
        notes=config.notes,
        run_id=run_id,
    )


def conclude(run: RunDirectory, outcome: Finished | Interrupted | RankFailure) -> LaunchResult:
    """What came of a run whose ranks have ended so."""
    training = JobResult.read(run.path)
    if isinstance(outcome, RankFailure):
        return LaunchResult(
            run=run, status=FAILED, training=training, problem=str(outcome), failure=outcome
        )
    if isinstance(outcome, Interrupted):
        problem = f"interrupted by {outcome.signal}: the ranks were stopped"
        return LaunchResult(run=run, status=INTERRUPTED, training=training, problem=problem)
    assert training is not None, "every rank ended well, and rank 0 left no result"
    if training.checkpoint is None:
        why = training.warnings[-1] if training.warnings else "no checkpoint was written"
        problem = f"trained, and not saved: {why}"
        return LaunchResult(run=run, status=FAILED, training=training, problem=problem)
    return LaunchResult(run=run, status=FINISHED, training=training)
