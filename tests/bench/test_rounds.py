"""The benchmark harness: fair order, honest intervals, one schema."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest

from collectors.errors import UsageError
from opsuite.bench.registry import BENCHES, find_bench
from opsuite.bench.result import Row, make_result
from opsuite.bench.rounds import interleave, median_interval, ratio_interval


def test_variants_take_turns_and_none_is_always_first() -> None:
    order: list[str] = []

    def variant(name: str) -> float:
        order.append(name)
        return float(len(order))

    figures = interleave({name: partial(variant, name) for name in "abc"}, rounds=4)
    assert "".join(order) == "abccbaabccba"
    assert figures["a"] == [1.0, 6.0, 7.0, 12.0]


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    trials = [
        (rng.normal(2.0, 0.3, 30).tolist(), rng.normal(1.0, 0.2, 30).tolist()) for _ in range(300)
    ]
    median_hits = [low <= 2.0 <= high for low, high in (median_interval(a) for a, _ in trials)]
    ratio_hits = [low <= 2.0 <= high for low, high in (ratio_interval(a, b) for a, b in trials)]
    assert 0.90 <= np.mean(median_hits) <= 0.99
    assert 0.90 <= np.mean(ratio_hits) <= 0.99


def test_result_is_json_and_one_miss_is_a_miss() -> None:
    row = Row(name="figure", value=1.0, unit="s", rounds=5, interval=(0.9, 1.1), met=True)
    result = make_result("name", [row, replace(row, met=None)])
    data = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert data["rows"][0]["interval"] == [0.9, 1.1]
    assert {"name", "date", "commit", "device", "rows"} == data.keys()
    assert result.met
    assert not replace(result, rows=(row, replace(row, met=False))).met


def test_every_bench_has_its_module_and_others_are_refused() -> None:
    for name in BENCHES:
        assert find_spec(f"opsuite.bench.{name.replace('-', '_')}") is not None
    with pytest.raises(UsageError) as error:
        find_bench("absent")
    assert "startup" in error.value.remedy


def test_startup_is_measured_against_a_bare_interpreter() -> None:
    rows = find_bench("startup").measure(3)
    assert all(row.value and row.value > 0 and row.rounds == 3 for row in rows)
    assert rows[1].ratio == pytest.approx(rows[1].value / rows[1].baseline)  # type: ignore[operator]
