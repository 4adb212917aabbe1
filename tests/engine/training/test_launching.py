"""Real runs of real ranks: the same losses on every mesh, bitwise resumes, and how runs end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="needs the engine extra")

from safetensors.torch import load_file  # noqa: E402

from collectors.record import Kind, kinds, name_ids  # noqa: E402
from collectors.run import RunDirectory  # noqa: E402
from collectors.spool import SpoolReader  # noqa: E402
from engine.training import launcher, saver  # noqa: E402
from engine.training.config import RunConfig  # noqa: E402
from engine.training.corpus import open_corpus  # noqa: E402
from engine.training.failure import Finished  # noqa: E402
from engine.training.job import Job  # noqa: E402
from engine.training.launcher import LaunchResult, launch  # noqa: E402
from engine.training.session import train_rank  # noqa: E402
from engine.training.trainer import READ  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STEPS = 20
SHARDS = {"tp": 2, "dp": 1}
REPLICAS = {"tp": 1, "dp": 2}
STAGES = {"pp": 2}
ALONE = {"tp": 1, "dp": 1}


def records(run: RunDirectory, kind: Kind) -> list[tuple[int, str, int, float]]:
    """(rank, name, step, value) of everything recorded of a kind."""
    found = []
    for batch in SpoolReader(run.spool).poll():
        names = name_ids(batch.records)
        for at in (kinds(batch.records) == kind).nonzero()[0]:
            record = batch.records[at]
            name = batch.names[int(names[at])]
            assert batch.identity is not None
            rank = batch.identity.rank
            if rank is None:  # the host's loader
                continue
            found.append((rank, name, int(record["step"]), float(record["value"])))
    return found


def losses(run: RunDirectory) -> dict[int, float]:
    samples = records(run, Kind.SAMPLE)
    return {step: value for _, name, step, value in samples if name == "loss"}


def run_here(run: RunDirectory, _: int, _worker: str) -> Finished:
    """A single rank needs no process of its own, and torch is imported here already."""
    job = Job.read(run.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANK", "0")
        patch.setenv("LOCAL_RANK", "0")
        train_rank(run.path, job, RunConfig.model_validate(job.config))
    return Finished()


class Runner:
    """Launches tiny runs under one home, hearing what is narrated."""

    def __init__(self, home: Path, tiny_run: Any) -> None:
        self._home = home
        self._tiny_run = tiny_run
        self.heard: list[str] = []

    def __call__(self, resume: RunDirectory | None = None, **sections: Any) -> LaunchResult:
        sections.setdefault("checkpoint", {"every": 10, "keep": 4})
        config = self._tiny_run(**sections)
        with pytest.MonkeyPatch.context() as patch:
            if config.parallel.world_size == 1:
                patch.setattr(launcher, "run_ranks", run_here)
            return launch(
                config,
                home=self._home,
                command=["a", "test"],
                narrate=self.heard.append,
                resume=resume,
            )


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As many as the ranks have: the order of sums, and so the last bits, depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_run: Any) -> Runner:
    return Runner(tmp_path_factory.mktemp("home"), tiny_run)


@pytest.fixture(scope="module")
def straight(run: Runner) -> dict[str, LaunchResult]:
    """20 steps without a break, on every mesh."""
    meshes = {"alone": ALONE, "shards": SHARDS, "replicas": REPLICAS, "stages": STAGES}
    return {
        name: run(parallel=mesh, train={"micro_batches": mesh.get("pp", 1)})
        for name, mesh in meshes.items()
    }


def test_every_mesh_learns_the_same(straight: dict[str, LaunchResult]) -> None:
    assert [result.status for result in straight.values()] == ["finished"] * 4
    alone = losses(straight["alone"].run)
    assert list(alone) == list(range(1, STEPS + 1))
    assert alone[STEPS] < alone[1] - 0.5
    for mesh in ("shards", "replicas", "stages"):
        others = losses(straight[mesh].run)
        assert others.keys() == alone.keys()
        assert max(abs(others[step] - alone[step]) for step in alone) <= 1e-4


def test_a_step_is_recorded_in_its_parts(straight: dict[str, LaunchResult]) -> None:
    phases = {"step", "data", "forward", "backward", "grad_sync", "optimizer"}
    for mesh, result in straight.items():
        spans = records(result.run, Kind.SPAN)
        ranks = {0} if mesh == "alone" else {0, 1}
        for rank in ranks:
            found = {(name, step) for r, name, step, _ in spans if r == rank}
            expected = {(p, s) for p in phases for s in range(1, STEPS + 1)}
            assert {each for each in found - expected if "." not in each[0]} == {
                ("checkpoint", 10),
                ("checkpoint", 20),
            }
            assert expected <= found
        costs = {r for r, name, *_ in records(result.run, Kind.SAMPLE) if "cpu" in name}
        assert costs == ranks
    assert not records(straight["alone"].run, Kind.COLLECTIVE)


@pytest.mark.parametrize(("mesh", "group"), [("shards", "tp[0,1]"), ("replicas", "dp[0,1]")])
def test_both_ranks_record_the_same_collectives(
    mesh: str, group: str, straight: dict[str, LaunchResult]
) -> None:
    seen: dict[int, list[tuple[str, int, int, float]]] = {}
    for batch in SpoolReader(straight[mesh].run.spool).poll():
        assert batch.identity is not None
        if batch.identity.rank is None:
            continue
        here = batch.records[kinds(batch.records) == Kind.COLLECTIVE]
        here = here[[batch.names[int(g)] == group for g in here["group"]]]
        assert set(here["group_size"]) == {2}
        assert (here["end_ns"] >= here["start_ns"]).all()
        names = [batch.names[int(n)] for n in name_ids(here)]
        columns = (here[column].tolist() for column in ("sequence", "step", "value"))
        seen[batch.identity.rank or 0] = list(zip(names, *columns, strict=True))
    assert seen[0] == seen[1]
    assert [sequence for _, sequence, *_ in seen[0]] == list(range(len(seen[0])))
    assert {step for _, _, step, _ in seen[0]} == set(range(1, STEPS + 1))


@pytest.mark.parametrize(
    ("name", "mesh"),
    [("alone", ALONE), ("shards", SHARDS), ("replicas", REPLICAS), ("stages", STAGES)],
)
def test_a_resume_is_bitwise(
    name: str,
    mesh: dict[str, int],
    run: Runner,
    straight: dict[str, LaunchResult],
    tmp_path: Path,
) -> None:
    whole = straight[name].run
    half = tmp_path / "runs" / whole.run_id
    shutil.copytree(whole.path, half)
    shutil.rmtree(half / "checkpoints" / "step-000020")
    shutil.rmtree(half / "spool")
    count = mesh.get("pp", 1)
    rest = run(parallel=mesh, train={"micro_batches": count}, resume=RunDirectory.load(half))
    assert rest.status == "finished"
    expected = losses(whole)
    assert losses(rest.run) == {step: expected[step] for step in range(11, STEPS + 1)}
    theirs = sorted((whole.checkpoints / "step-000020" / "state").iterdir())
    assert len(theirs) == rest.run.manifest.world_size
    for file in theirs:
        ours = half / "checkpoints" / "step-000020" / "state" / file.name
        before, after = load_file(file), load_file(ours)
        assert before.keys() == after.keys()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.slow
def test_bfloat16_learns_as_float32_does(run: Runner, straight: dict[str, LaunchResult]) -> None:
    """In one process, and in stages of replicas; a resume is bitwise, so originals were kept."""
    expected = losses(straight["alone"].run)
    train = {"precision": "bfloat16", "steps": 10}
    both = {**STAGES, "dp": 2}
    first = run(parallel=ALONE, train=train)
    spread = run(parallel=both, train={**train, "micro_batches": 2})
    curves = [losses(each.run) for each in (first, spread)]
    for curve in curves:
        assert max(abs(curve[step] - expected[step]) for step in range(1, 11)) < 0.02
    assert curves[0] != {step: expected[step] for step in range(1, 11)}
    rest = run(
        parallel=ALONE, train={**train, "steps": 15}, resume=RunDirectory.load(first.run.path)
    )
    straightforward = run(parallel=ALONE, train={**train, "steps": 15})
    assert {**curves[0], **losses(rest.run)} == losses(straightforward.run)


@pytest.mark.slow
def test_replicas_may_become_fewer_and_more(run: Runner, tmp_path: Path) -> None:
    """2, 1 and 4 of them: each sample of the epoch is read once, and the loss is one run's."""
    read: list[tuple[int, int, list[int]]] = []
    loaded: list[float] = []
    told = losses(run(parallel=ALONE, train={"steps": 30, "batch_size": 8}).run)
    result: LaunchResult | None = None
    for dp, last in ((2, 10), (1, 20), (4, 30)):
        before = None if result is None else RunDirectory.load(result.run.path)
        train = {"steps": last, "batch_size": 8}
        result = run(parallel={"dp": dp}, train=train, resume=before)
        assert result.status == "finished", result.problem
    assert result is not None
    for batch in SpoolReader(result.run.spool).poll():
        if batch.identity is None or batch.identity.rank is None:
            points = batch.records[kinds(batch.records) == Kind.SAMPLE]
            loaded += [float(value) for value in points["value"]]
            continue
        rank = batch.identity.rank
        points = batch.records[kinds(batch.records) == Kind.EVENT]
        for record, name in zip(points, name_ids(points), strict=True):
            if batch.names[int(name)] == READ:
                facts = json.loads(batch.names[int(record["attributes"])])
                read.append((int(record["step"]), rank, facts["samples"]))
    # Two attempts with a loader, of 2 and of 4 ranks: ten steps each, of as many bytes.
    assert sorted(loaded) == sorted([n * 8 * 33 * 2 for n in range(1, 11)] * 2)
    seen = [sample for *_, samples in sorted(read) for sample in samples]
    corpus = open_corpus(Path(Job.read(result.run.path).corpus))
    assert corpus is not None
    n_windows = (corpus.n_tokens - 1) // 32
    assert len(seen) == 30 * 8 > n_windows  # into the second epoch
    for first in range(0, len(seen), n_windows):
        epoch = seen[first : first + n_windows]
        assert len(set(epoch)) == len(epoch)
    both = losses(result.run)
    assert max(abs(both[step] - told[step]) for step in told) <= 1e-4


def test_a_damaged_checkpoint_is_passed_over(
    run: Runner, straight: dict[str, LaunchResult]
) -> None:
    before = straight["shards"].run
    [weights] = (before.checkpoints / "step-000020" / "state").glob("shard-00002-*")
    intact = weights.read_bytes()
    weights.write_bytes(intact[:-1])
    result = run(parallel=ALONE, resume=RunDirectory.load(before.path))  # on another mesh, too
    assert result.status == "finished"
    assert any("damaged" in line and str(weights) in line for line in run.heard)
    assert any("resuming after step 10" in line for line in run.heard)


def test_a_run_that_cannot_save_ends_and_says_so(
    tmp_path: Path, tiny_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_room(run: RunDirectory, ranks: int, worker: str) -> Finished:
        run.checkpoints.rmdir()
        run.checkpoints.write_text("not a directory")
        return run_here(run, ranks, worker)

    monkeypatch.setattr(launcher, "run_ranks", without_room)
    monkeypatch.setattr(saver, "_AGAIN_S", (0.01,))
    result = launch(
        tiny_run(checkpoint={"every": 10}),
        home=tmp_path,
        command=["a", "test"],
        narrate=lambda _: None,
    )
    assert (result.status, result.exit_code) == ("failed", 1)
    assert "not saved" in result.problem
    assert len(losses(result.run)) == STEPS  # the first failed save was a warning
    assert result.training is not None
    assert len(result.training.warnings) == 3  # the last one was tried twice


def during(result: Callable[[], LaunchResult], home: Path, act: Callable[[Path], None]) -> Any:
    """Run, and ``act`` on the newest run directory once its ranks have begun to step."""

    def wait_and_act() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for path in sorted((home / "runs").glob("*/checkpoints/step-*"))[:1]:
                act(path.parents[1])
                return
            time.sleep(0.05)

    actor = threading.Thread(target=wait_and_act)
    actor.start()
    try:
        return result()
    finally:
        actor.join()


def processes(run: Path, module: str) -> list[int]:
    """Those of the run that run a module."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended while we looked
            words = path.read_bytes().split(b"\0")
            if module.encode() in words and str(run).encode() in words:
                found.append(int(path.parent.name))
    return found


def rank_processes(run: Path) -> dict[int, int]:
    """Process of each rank of the run, by rank."""
    found = {}
    for process in processes(run, "engine.training.worker"):
        with suppress(OSError):
            environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            rank = next(e for e in environment if e.startswith(b"RANK="))
            found[int(rank.removeprefix(b"RANK="))] = process
    return found


ENDLESS: dict[str, Any] = {
    "parallel": SHARDS,
    "train": {"steps": 100_000},
    "checkpoint": {"every": 5},
}


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds ranks through /proc")
def test_a_killed_rank_is_named(tmp_path: Path, tiny_run: Any) -> None:
    run = Runner(tmp_path, tiny_run)
    killed: list[Path] = []

    def kill_rank_1(path: Path) -> None:
        killed.append(path)
        os.kill(rank_processes(path)[1], signal.SIGKILL)

    result = during(lambda: run(**ENDLESS), tmp_path, kill_rank_1)
    assert (result.status, result.exit_code) == ("failed", 1)
    assert result.failure is not None
    assert (result.failure.rank, result.failure.signal) == (1, "SIGKILL")
    assert "rank 1" in result.problem
    assert str(result.run.logs / "rank1.log") in result.problem
    assert rank_processes(killed[0]) == {}
    assert RunDirectory.load(result.run.path).manifest.status == "failed"
    recorded = {rank for rank, name, step, _ in records(result.run, Kind.SPAN) if step >= 5}
    assert recorded == {0, 1}


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the loader through /proc")
def test_a_killed_loader_ends_the_run(tmp_path: Path, tiny_run: Any) -> None:
    def kill_loader(path: Path) -> None:
        [loader] = processes(path, "engine.training.host_loader")
        os.kill(loader, signal.SIGKILL)

    run = Runner(tmp_path, tiny_run)
    result = during(lambda: run(**ENDLESS), tmp_path, kill_loader)
    assert (result.status, result.exit_code) == ("failed", 1)
    assert "data loader has ended" in result.problem
    assert rank_processes(result.run.path) == {}


def test_a_signal_stops_all_ranks(tmp_path: Path, tiny_run: Any) -> None:
    number = signal.SIGTERM
    before = signal.getsignal(number)
    run = Runner(tmp_path, tiny_run)
    result = during(lambda: run(**ENDLESS), tmp_path, lambda _: os.kill(os.getpid(), number))
    assert (result.status, result.exit_code) == ("interrupted", 130)
    assert number.name in result.problem
    assert rank_processes(result.run.path) == {}
    assert RunDirectory.load(result.run.path).manifest.status == "interrupted"
    assert signal.getsignal(number) == before
