"""A checkpoint is whole or not there, and damage is found before it is used."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import pytest

torch = pytest.importorskip("torch", reason="needs the engine extra")

from collectors.errors import DataError, StorageError  # noqa: E402
from engine.models.config import ModelConfig  # noqa: E402
from engine.models.transformer import Transformer  # noqa: E402
from engine.training.checkpoint import Checkpoint, CheckpointStore, check, load_state  # noqa: E402
from engine.training.state import TrainingState  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

MODEL = ModelConfig(
    vocab_size=300, hidden_size=16, n_layers=1, n_heads=2, n_kv_heads=2, intermediate_size=16
)


def make_state(fill: float) -> TrainingState:
    weights = {
        name: torch.full(tuple(p.shape), fill) for name, p in Transformer(MODEL).named_parameters()
    }
    moments = {
        f"{name}/{moment}": tensor * 2
        for name, tensor in weights.items()
        for moment in ("exp_avg", "exp_avg_sq")
    }
    return TrainingState(weights=weights, moments=moments)


def save(store: CheckpointStore, step: int) -> Path:
    return store.save(make_state(step), step=step, model=MODEL, tokenizer_json="{}", corpus="key")


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = save(CheckpointStore(tmp_path, keep=2), 7)
    assert check(path) == Checkpoint(path=path, step=7, corpus="key")
    model, state = load_state(path)
    assert model == MODEL
    expected = make_state(7)
    assert state.weights.keys() == expected.weights.keys()
    assert all(torch.equal(state.moments[k], v) for k, v in expected.moments.items())


def test_the_newest_stay(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (1, 2, 3):
        save(store, step)
    assert [p.name for p in store.paths()] == ["step-000003", "step-000002"]
    save(store, 2)  # the run has gone back, and what came after is no longer its future
    assert [p.name for p in store.paths()] == ["step-000002"]


FILES = ["config.json", "model.safetensors", "optimizer.safetensors", "tokenizer.json"]


@pytest.mark.parametrize("name", [*FILES, "trainer.json"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_damage_is_found_in_every_file(tmp_path: Path, name: str, damage: str) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    good, bad = save(store, 1), save(store, 2)
    file = bad / name
    content = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "altered":
        file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    else:
        file.unlink()
    first, second = store.check_all()
    assert isinstance(first, DataError)
    assert name in first.where
    assert isinstance(second, Checkpoint)
    assert second.path == good


def test_a_full_disk_leaves_the_last_one_and_nothing_else(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    save(store, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(StorageError, match="no space left"):
            save(store, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
    check(tmp_path / "step-000001")


def test_the_rest_of_a_killed_save_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "step-000001.tmp").mkdir()
    (tmp_path / "step-000001.tmp" / "model.safetensors").write_bytes(b"half")
    store = CheckpointStore(tmp_path, keep=1)
    assert store.paths() == []
    save(store, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000002"]
