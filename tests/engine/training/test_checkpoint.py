"""A checkpoint is whole or not there, and damage is found before it is used."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from subprocess import PIPE
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="needs the engine extra")

from collectors.errors import DataError  # noqa: E402
from collectors.recorder import NullRecorder  # noqa: E402
from engine.groups.group import CurrentStep  # noqa: E402
from engine.models.config import ModelConfig  # noqa: E402
from engine.models.transformer import Transformer  # noqa: E402
from engine.training.checkpoint import Checkpoint, CheckpointStore, check  # noqa: E402
from engine.training.config import OptimizerConfig, ParallelConfig  # noqa: E402
from engine.training.export import export_model, exported  # noqa: E402
from engine.training.mesh import open_mesh  # noqa: E402
from engine.training.optimizer import MOMENTS, Optimizer  # noqa: E402
from engine.training.restoring import restore  # noqa: E402
from engine.training.saver import Saver  # noqa: E402
from engine.training.weights import tp_cuts, weights_of  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from engine.training.mesh import Mesh

MODEL = ModelConfig(
    vocab_size=300, hidden_size=16, n_layers=2, n_heads=2, n_kv_heads=2, intermediate_size=16
)


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    parallel = ParallelConfig(device="cpu")
    with open_mesh(parallel, recorder=NullRecorder(), current_step=CurrentStep()) as mesh:
        yield mesh


def fill(optimizer: Optimizer, value: float) -> None:
    for weight in optimizer.weights:
        weight.part.data.fill_(value)
        for moment in MOMENTS:
            optimizer.slots(weight)[moment].fill_(2 * value)


def make_optimizer() -> Optimizer:
    model = Transformer(MODEL)
    return Optimizer(weights_of([model], tp_cuts([model])), OptimizerConfig(), decay_steps=9)


class Saves:
    """Saves states whose every number is that of the step."""

    def __init__(self, directory: Path, mesh: Mesh, keep: int = 2) -> None:
        self.store = CheckpointStore(directory, keep)
        self._optimizer = make_optimizer()
        self.saver = Saver(
            store=self.store,
            model=MODEL,
            optimizer=self._optimizer,
            mesh=mesh,
            tokenizer_json="{}",
            corpus="key",
            recorder=NullRecorder(),
        )

    def __call__(self, step: int) -> Path:
        self.begin(step)
        self.saver.finish()
        assert self.saver.latest is not None
        return self.saver.latest

    def begin(self, step: int) -> None:
        fill(self._optimizer, step)
        self.saver.save(step, samples=8 * step)
        fill(self._optimizer, -1.0)  # training goes on while the save is written


def values(path: Path, mesh: Mesh) -> set[float]:
    """All that is in a checkpoint, restored."""
    optimizer = make_optimizer()
    restore(check(path), optimizer, mesh)
    found: set[float] = set()
    for weight in optimizer.weights:
        moments = [optimizer.slots(weight)[moment] / 2 for moment in MOMENTS]
        for tensor in (weight.part.detach(), *moments, optimizer.slots(weight)["step"]):
            found |= set(tensor.flatten().tolist())
    return found


def test_what_was_saved_is_restored(tmp_path: Path, mesh: Mesh) -> None:
    path = Saves(tmp_path, mesh)(7)
    assert values(path, mesh) == {7.0}
    progress = check(path).progress
    assert (progress.step, progress.samples, progress.corpus) == (7, 56, "key")


def test_the_last_one_is_tried_again_until_the_storage_takes_it(
    tmp_path: Path, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.training.saver._AGAIN_S", (0.05, 0.05, 0.05))
    saver, publish, tries = Saves(tmp_path, mesh).saver, CheckpointStore.publish, 0

    def refuse_twice(store: CheckpointStore, *args: Any) -> Path:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise OSError(errno.ENOSPC, "no space left on device")
        return publish(store, *args)

    monkeypatch.setattr(CheckpointStore, "publish", refuse_twice)
    saver.save(5, 40)
    saver.finish_last(5, 40)
    assert (tries, len(saver.warnings)) == (3, 2)
    assert saver.latest is not None and saver.latest.name == "step-000005"
    saver.finish_last(5, 40)
    assert tries == 3
    saver.close()


def test_the_newest_stay(tmp_path: Path, mesh: Mesh) -> None:
    save = Saves(tmp_path, mesh)
    for step in (1, 2, 3):
        save(step)
    assert [p.name for p in save.store.paths()] == ["step-000003", "step-000002"]
    save(2)  # the run has gone back, and what came after is no longer its future
    assert [p.name for p in save.store.paths()] == ["step-000002"]


SHARD = "state/shard-00001-model-00001-of-00001.safetensors"


@pytest.mark.parametrize("name", ["config.json", SHARD, "tokenizer.json", "trainer.json"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_damage_is_found_in_every_file(tmp_path: Path, mesh: Mesh, name: str, damage: str) -> None:
    save = Saves(tmp_path, mesh)
    good, bad = save(1), save(2)
    file = bad / name
    content = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "altered":
        file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    else:
        file.unlink()
    first, second = save.store.check_all()
    assert isinstance(first, DataError)
    assert name in first.where
    assert isinstance(second, Checkpoint)
    assert second.path == good


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "state/../../outside"])
def test_a_manifest_names_nothing_outside(tmp_path: Path, mesh: Mesh, name: str) -> None:
    path = Saves(tmp_path, mesh)(1)
    rewrite(path, lambda told: told["files"].update({name: told["files"].pop(SHARD)}))
    with pytest.raises(DataError, match="outside"):
        check(path)


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """A manifest as somebody else could have written it: without a digest."""
    manifest = path / "trainer.json"
    told = json.loads(manifest.read_text())
    del told["digest"]
    change(told)
    manifest.write_text(json.dumps(told))


def test_an_altered_manifest_is_found(tmp_path: Path, mesh: Mesh) -> None:
    path = Saves(tmp_path, mesh)(1)
    manifest = path / "trainer.json"
    told = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**told, "samples": told["samples"] + 1}))
    with pytest.raises(DataError, match="altered"):
        check(path)
    rewrite(path, lambda told: told.update(samples=told["samples"] - 1))
    check(path)  # as it was, though without a digest


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("samples", -5),
        ("samples", None),
        ("samples", True),
        ("step", "x"),
        ("step", 2),
        ("corpus", "../.."),
        ("corpus", None),
        ("files", {}),
        ("files", []),
        ("files", {"a": {"b": 1}}),
        ("files", {"config.json": None}),
        ("files", {"config.json": {"bytes": "1", "sha256": ""}}),
    ],
)
def test_a_manifest_of_nonsense_is_one_clear_error(
    tmp_path: Path, mesh: Mesh, key: str, value: object
) -> None:
    path = Saves(tmp_path, mesh)(1)
    rewrite(path, lambda told: told.update({key: value}))
    with pytest.raises(DataError, match="no usable description"):
        check(path)


def test_a_full_disk_is_a_warning_and_leaves_the_last_one(tmp_path: Path, mesh: Mesh) -> None:
    save = Saves(tmp_path, mesh, keep=1)
    save(1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        save.begin(2)
        save.saver.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert save.saver.latest is None
    [warning] = save.saver.warnings
    assert "step 2 failed: no space left" in warning
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
    assert values(save(3), mesh) == {3.0}  # and the next save is well


SAVING = """
import importlib.util, os, pathlib, sys
import torch

torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("saves", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.save_from(pathlib.Path(sys.argv[2]), 1, last=2)  # what torch imports when first used
for line in sys.stdin:  # no threads compute: a fork is as good as a new process
    child = os.fork()
    if not child:
        module.save_from(pathlib.Path(sys.argv[2]), int(line))
    print(child, flush=True)
    print(os.waitpid(child, 0), flush=True)
"""


def save_from(directory: Path, step: int, last: int = 1_000_000) -> None:
    parallel = ParallelConfig(device="cpu")
    with open_mesh(parallel, recorder=NullRecorder(), current_step=CurrentStep()) as mesh:
        save = Saves(directory, mesh)
        for after in range(step + 1, last + 1):
            save(after)


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path, mesh: Mesh) -> None:
    """20 processes that do nothing but save, each killed at a moment of its own."""
    chance = random.Random(6)
    Saves(tmp_path, mesh)(1)
    newest = 1
    command = [sys.executable, "-P", "-c", SAVING, __file__, str(tmp_path)]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as savers:
        assert savers.stdin is not None
        assert savers.stdout is not None
        for _ in range(20):
            print(newest, file=savers.stdin, flush=True)
            child = int(savers.stdout.readline())
            time.sleep(chance.uniform(0.05, 0.2))
            os.kill(child, signal.SIGKILL)
            savers.stdout.readline()  # it has ended
            found = list(CheckpointStore(tmp_path, 2).check_all())
            assert found
            assert all(isinstance(each, Checkpoint) for each in found), found
            assert isinstance(found[0], Checkpoint)
            assert found[0].step >= newest
            newest = found[0].step
            assert values(found[0].path, mesh) == {float(newest)}
        savers.stdin.close()
    assert newest > 20  # they got some way
    last = Saves(tmp_path, mesh)(newest + 1)
    assert not list(tmp_path.glob("*.tmp"))
    assert last in CheckpointStore(tmp_path, 2).paths()


def test_any_checkpoint_becomes_a_model_directory(tmp_path: Path, mesh: Mesh) -> None:
    from engine.models.huggingface import load_pretrained

    save = Saves(tmp_path / "checkpoints", mesh)
    first, second = check(save(3)), check(save(4))
    heard: list[str] = []
    for checkpoint in (first, second, second):
        directory = exported(checkpoint, tmp_path / "model", heard.append)
        config, weights = load_pretrained(directory)
        assert config == MODEL
        assert {each for w in weights.values() for each in w.flatten().tolist()} == {
            checkpoint.step
        }
    assert len(heard) == 2  # the third was there
    file = next((second.path / "state").iterdir())
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match="unreadable"):
        export_model(second, tmp_path / "again")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints", "model"]
