"""The search for the fastest choice, and what is kept of it on disk."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs the engine extra")

import torch

from engine.overlap.choices import Choice, Choices, Sizes
from engine.overlap.kernels.tile_shape import SHARED_LIMITS, CommunicationShape
from engine.overlap.tuning import Search, cuda_choices, part_choices
from engine.overlap.tuning_cache import TuningCache, arch_of

if TYPE_CHECKING:
    from pathlib import Path

SIZES = Sizes.of("all_gather_matmul", 512, 2048, 1024, torch.bfloat16)


def _search(choices: list[Choice], times: dict[Choice, float], noise: float, seed: int) -> Search:
    chance, search = random.Random(seed), Search(choices)
    for _ in range(40 * len(choices)):
        choice = search.next()
        if choice is None:
            return search
        search.tell(choice, times[choice] * (1 + noise * chance.random()))
    raise AssertionError("the search does not end")


@given(st.integers(1, 80), st.integers(0, 10_000))
def test_it_ends_and_finds_one_that_is_nearly_the_fastest(count: int, seed: int) -> None:
    """Also where times are 10 % too long by chance; and in the same way each time."""
    choices = cuda_choices("all_gather_matmul", 2, SHARED_LIMITS[90])[:count]
    times = {choice: random.Random(seed + at).uniform(1, 3) for at, choice in enumerate(choices)}
    found = _search(choices, times, 0.1, seed)
    assert times[found.best] <= min(times.values()) * 1.12
    assert found.seconds(found.best) >= times[found.best]
    assert _search(choices, times, 0.1, seed).best == found.best


def test_most_time_goes_to_the_fastest() -> None:
    choices = cuda_choices("reduce_scatter", 2, SHARED_LIMITS[90])
    times = {choice: 1.0 + at for at, choice in enumerate(choices)}
    told: list[Choice] = []
    search = Search(choices)
    while (choice := search.next()) is not None:
        told.append(choice)
        search.tell(choice, times[choice])
    counts = [told.count(choice) for choice in choices]
    assert counts[0] == max(counts) >= 9
    assert sum(count == 3 for count in counts) >= len(counts) // 2


def test_every_choice_fits_the_device() -> None:
    for limit in SHARED_LIMITS.values():
        for itemsize in (1, 2, 4):
            for choice in cuda_choices("all_gather_matmul", itemsize, limit):
                assert choice.tile is not None
                assert choice.tile.shared_bytes(itemsize) <= limit
    assert len(set(part_choices())) == 2


def test_choices_are_kept_for_their_device_and_libraries(tmp_path: Path) -> None:
    arch = arch_of(torch.device("cpu"))
    cache = TuningCache(tmp_path, arch=arch, world=2)
    assert cache.read() == (Choices(), [])
    kept = {
        SIZES: Choice(communication=CommunicationShape(splits=2, direction="pull")),
        Sizes.of("reduce_scatter", 8, 8, 8, torch.float32): Choice(in_parts=True),
    }
    for sizes, choice in kept.items():
        cache.write(sizes, Choice(in_parts=False), 1.0)
        cache.write(sizes, choice, 0.5)
    assert cache.read() == (Choices(kept), [])
    assert Choices.from_json(Choices(kept).to_json()) == Choices(kept)
    for arch_too, world in ((arch, 4), ("another", 2)):
        assert TuningCache(tmp_path, arch=arch_too, world=world).read() == (Choices(), [])


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"version": 1}', "\x00" * 50])
def test_damaged_files_are_told_and_left_out(tmp_path: Path, damage: str) -> None:
    cache = TuningCache(tmp_path, arch="a", world=2)
    cache.write(SIZES, Choice(in_parts=True), 1.0)
    bad = tmp_path / "tuning" / "0.json"
    bad.write_text(damage)
    choices, damaged = cache.read()
    assert choices.of(SIZES) == Choice(in_parts=True)
    assert damaged == [str(bad)]


def test_rows_that_were_not_tuned_take_the_nearest_within_a_factor_of_two() -> None:
    few, many = (Sizes.of("all_reduce", m, 8, 8, torch.float32) for m in (100, 1000))
    choices = Choices({few: Choice(in_parts=True), many: Choice(in_parts=False)})
    for m, expected in ((150, few), (600, many), (300, None), (2000, many), (2001, None)):
        found = choices.of(Sizes.of("all_reduce", m, 8, 8, torch.float32))
        assert found == (choices.table[expected] if expected else None), m
    assert choices.of(Sizes.of("all_reduce", 100, 9, 8, torch.float32)) is None
