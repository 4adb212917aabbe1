"""Costs files: DistServe's form, profiles of ours, and what is wrong with others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from collectors.errors import DataError, UsageError
from engine.simulation.serve.costs import read_serving_costs

MODELS = Path(__file__).parents[5] / "shared" / "costmodels"
needs_models = pytest.mark.skipif(not MODELS.exists(), reason="no cost models beside the checkout")
MEASURED = {
    "decoding_large_small_bs_threshold": 95,
    "prefill": [20.0, 0.1, 1e-5],
    "decoding_smallbs": [19.0, 1e-3, 0.04],
    "decoding_largebs": [7.0, 1e-3, 0.16],
}


def written(tmp_path: Path, given: Any) -> Path:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(given))
    return path


@needs_models
def test_the_published_file_gives_its_first_model_on_the_fewest_devices() -> None:
    costs = read_serving_costs(MODELS / "distserve_profiler-a100-80g.distserve.json")
    assert (costs.model, costs.tp) == ("facebook/opt-13b", 1)
    assert costs.kv_bytes_per_token == 819_200
    assert costs.prefill_s(1000) == pytest.approx(18.1025e-3 + 101.912e-3 + 7.12226e-3, rel=1e-4)
    assert costs.decode_s(16, 8000) == pytest.approx(19.9347e-3 + 5.01549e-3 + 0.616e-3, rel=1e-3)


@needs_models
def test_model_and_tp_may_be_chosen() -> None:
    path = MODELS / "distserve_profiler-a100-80g.vllm.json"
    costs = read_serving_costs(path, "opt-66b", 4)
    assert (costs.model, costs.tp, costs.kv_bytes_per_token) == ("facebook/opt-66b", 4, 2_359_296)
    assert read_serving_costs(path, "facebook/opt-66b").tp == 2
    with pytest.raises(UsageError, match="no model gpt-4") as error:
        read_serving_costs(path, "gpt-4")
    assert "facebook/opt-13b or facebook/opt-66b" in error.value.remedy
    with pytest.raises(UsageError, match="no tp 8") as error:
        read_serving_costs(path, tp=8)
    assert "1 or 2 or 4" in error.value.remedy


def test_an_unknown_model_has_no_size(tmp_path: Path) -> None:
    costs = read_serving_costs(written(tmp_path, {"mine": {"2": MEASURED}}))
    assert (costs.model, costs.tp, costs.kv_bytes_per_token) == ("mine", 2, None)


def test_a_profile_of_ours_is_fitted(tmp_path: Path) -> None:
    prefill = [{"lengths": [n], "seconds": 0.02 + 1e-4 * n} for n in (10, 100, 1000)]
    decode = [
        {"batch": b, "context_tokens": b * c, "seconds": 0.02 + 1e-3 * b + 1e-6 * b * c}
        for b in (1, 8)
        for c in (10, 1000)
    ]
    sampled = {"weight_bytes": [1], "prefill": prefill, "decode": decode}
    given = {
        "format": "opsuite-profile",
        "version": 1,
        "model": "tiny",
        "device": "a CPU",
        "origin": "measured",
        "kv_bytes_per_token": 512,
        "configurations": [sampled | {"op": 2}, sampled, sampled | {"sp": 2}],
    }
    path = written(tmp_path, given)
    costs = read_serving_costs(path)
    assert (costs.model, costs.tp, costs.kv_bytes_per_token) == ("tiny", 1, 512)
    assert costs.prefill_s(500) == pytest.approx(0.07)
    assert costs.decode_s(4, 400) == pytest.approx(0.0244)
    assert "measured on a CPU" in costs.source
    assert read_serving_costs(path, tp=2).tp == 2


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "the file"),
        ({}, "the file"),
        ({"m": {}}, "m"),
        ({"m": {"one": MEASURED}}, "m.one"),
        ({"m": {"1": MEASURED | {"prefill": [1, 2]}}}, "m.1.prefill"),
        ({"m": {"1": MEASURED | {"prefill": [1, 2, "x"]}}}, "m.1.prefill.2"),
        ({"m": {"1": MEASURED | {"more": 1}}}, "m.1.more"),
        ({"m": {"1": {"prefill": [1, 2, 3]}}}, "m.1.decoding"),
    ],
)
def test_a_wrong_file_is_told_with_the_place(tmp_path: Path, given: Any, says: str) -> None:
    path = written(tmp_path, given)
    with pytest.raises(DataError) as error:
        read_serving_costs(path)
    assert says in error.value.what
    assert error.value.where == str(path)


def test_what_is_no_json_or_no_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    with pytest.raises(UsageError, match="cannot be read"):
        read_serving_costs(path)
    path.write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        read_serving_costs(path)
