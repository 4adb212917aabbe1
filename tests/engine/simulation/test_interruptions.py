"""Failures from published counts and from files: the numbers are what the sources say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from collectors.errors import DataError, UsageError
from engine.simulation.interruptions import LLAMA3, Component, Shows, find_interruptions

if TYPE_CHECKING:
    from pathlib import Path


def test_llama3_is_the_published_table() -> None:
    counts = {each.component: each.count for each in LLAMA3.components}
    assert sum(counts.values()) == 419
    assert counts["faulty GPU"] == 148
    assert counts["GPU HBM3 memory"] == 72
    assert counts["silent data corruption"] == 6
    assert {(each.gpus, each.days) for each in LLAMA3.components} == {(16_384, 54)}


def test_rates_scale_with_gpus() -> None:
    seconds = 54 * 86_400
    assert LLAMA3.per_s(16_384) * seconds == pytest.approx(419)
    assert LLAMA3.per_s(12_288) * seconds == pytest.approx(419 * 12_288 / 16_384)


def test_a_file_says_the_same_as_json_and_as_csv(tmp_path: Path) -> None:
    rows = [
        {"component": "GPU", "count": 3, "gpus": 512, "days": 30, "replace": True, "shows": "hang"},
        {"component": "bug", "count": 1, "gpus": 512, "days": 30},
    ]
    (tmp_path / "f.json").write_text(json.dumps(rows))
    (tmp_path / "f.csv").write_text(
        "# of our own cluster\ncomponent,count,gpus,days,shows,replace\n"
        "GPU,3,512,30,hang,true\nbug,1,512,30,,\n"
    )
    from_json = find_interruptions(tmp_path / "f.json").components
    assert from_json == find_interruptions(tmp_path / "f.csv").components
    assert from_json[0] == Component(
        component="GPU", count=3, gpus=512, days=30, shows=Shows.HANG, replace=True
    )
    assert from_json[1].shows is Shows.CRASH
    assert not from_json[1].replace


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("f.json", "[", "not JSON"),
        ("f.json", "[]", "no components"),
        ("f.json", '[{"component": "GPU", "count": 3, "gpus": 5}]', "row 0.days"),
        ("f.json", '[{"component": "x", "count": 0, "gpus": 5, "days": 1}]', "row 0.count"),
        ("f.csv", "component,count,gpus,days,shows\nGPU,3,5,1,explodes\n", "row 0.shows"),
        ("f.csv", "component,count,gpus,days\nGPU,many,5,1\n", "row 0.count"),
        ("f.csv", "component,count,gpus,days\nGPU,1,5,1,6,7\n", "row 0"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, name: str, text: str, says: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        find_interruptions(path)
    assert says in caught.value.what
    assert caught.value.where == str(path)
    assert "component" in caught.value.remedy


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        find_interruptions(tmp_path / "none.json")
    assert "llama3" in caught.value.remedy


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        find_interruptions(path)
