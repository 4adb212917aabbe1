"""Configurations that cannot work are refused before anything starts, naming the keys."""

from __future__ import annotations

from typing import Any

import pytest

from collectors.configuration import describe_toml, load_toml, resolve
from collectors.errors import ConfigError
from engine.training.config import RunConfig


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"parallel": {"tp": 3}}, ("model.n_heads", "parallel.tp")),
        ({"parallel": {"tp": 8}}, ("model.n_kv_heads", "parallel.tp")),
        ({"parallel": {"tp": 2}, "model": {"vocab_size": 301}}, ("model.vocab_size",)),
        ({"parallel": {"dp": 3}}, ("train.batch_size", "parallel.dp")),
        ({"data": {"seq_len": 2048}}, ("data.seq_len", "model.max_seq_len")),
        ({"optimizer": {"lr": 1e-5}}, ("min_lr", "lr")),
        ({"train": {"steps": 0}}, ("train.steps",)),
        ({"train": {"stepz": 1}}, ("train.stepz", "train.steps")),
        ({"parallel": {"device": "tpu"}}, ("parallel.device",)),
        ({"name": "../up"}, ("name",)),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, Any], named: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(RunConfig, [("given", given)])
    assert all(key in str(caught.value) for key in named)


def test_the_printed_example_is_the_default(tmp_path: Any) -> None:
    path = tmp_path / "example.toml"
    path.write_text(describe_toml(RunConfig), encoding="utf-8")
    assert resolve(RunConfig, [(str(path), load_toml(path))]).value == RunConfig()
