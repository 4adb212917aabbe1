"""What is recorded where not everything can be: levels, caps, and the classes of drops."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from collectors import level, slots, spool_room
from collectors.errors import UsageError
from collectors.level import Level, declare, level_of
from collectors.record import Kind, kinds, name_ids
from collectors.recorder import open_recorder
from collectors.segment import BLOCK_SIZE, HEADER_SIZE
from collectors.settings import Settings
from collectors.spool import SpoolReader
from collectors.spool_room import Room, cap_of_rank, look

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from collectors.recorder import Identity, Recorder
    from collectors.spool import Batch

MIB = 1 << 20
CAP = 8 * MIB  # of 8 ranks: one for this one


@pytest.fixture(autouse=True)
def _levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(level, "_DECLARED", {})
    declare(Level.SAMPLED, "kernel.", "iteration")
    declare(Level.TRIGGER, "stack")
    monkeypatch.setattr(spool_room, "LEAST_CAP", MIB)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The time that slots see; it stands still unless moved."""
    now = [10**12]
    monkeypatch.setattr(slots, "now_ns", lambda: now[0])
    return now


def counts(batches: Iterable[Batch]) -> Counter[str]:
    """How many records of each name there are."""
    found: Counter[str] = Counter()
    for batch in batches:
        recorded = kinds(batch.records) >= Kind.SPAN
        found.update(batch.names[name] for name in name_ids(batch.records[recorded]).tolist())
    return found


def told(batches: Iterable[Batch]) -> dict[str, int]:
    """What the samples say was dropped, by level."""
    found: Counter[str] = Counter()
    for batch in batches:
        samples = batch.records[kinds(batch.records) == Kind.SAMPLE]
        for name, value in zip(name_ids(samples).tolist(), samples["value"].tolist(), strict=True):
            if (full_name := batch.names[name]).startswith("opsuite.dropped."):
                found[full_name.removeprefix("opsuite.dropped.")] += int(value)
    return dict(found)


def test_a_name_has_the_level_that_was_declared() -> None:
    names = ("kernel.gemm", "iteration", "stack", "kernels", "iteration.a", "step")
    assert [level_of(name) for name in names] == [1, 1, 2, 0, 0, 0]


@pytest.mark.parametrize(
    ("highest", "expected"),
    [
        ("always", {"step": 2}),
        (None, {"step": 2, "kernel.gemm": 1, "iteration": 1}),
        ("Trigger", {"step": 2, "kernel.gemm": 1, "iteration": 1, "stack": 1}),
    ],
)
def test_only_names_up_to_the_level_are_recorded(
    identity: Identity,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    highest: str | None,
    expected: dict[str, int],
) -> None:
    """What is above the level is not wanted: it is not counted as dropped."""
    if highest is not None:
        monkeypatch.setenv("OPSUITE_LEVEL", highest)
    recorder = open_recorder(tmp_path, identity)
    with recorder.span("step", 1), recorder.span("kernel.gemm", 1):
        recorder.sample("iteration", 1.0)
        recorder.event("stack", attributes={"frames": []})
    recorder.record_span("step", 1, 2)
    recorder.close()
    batches = SpoolReader(tmp_path).poll()
    assert counts(batches) == expected
    assert [batch.dropped for batch in batches] == [0]


def test_the_environment_is_checked() -> None:
    settings = Settings.from_environment({"OPSUITE_LEVEL": "TRIGGER", "OPSUITE_CAP_BYTES": "2GB"})
    assert (settings.level, settings.cap_bytes) == (Level.TRIGGER, 2 * 10**9)
    assert Settings.from_environment({}).cap_bytes == 10 * 10**9
    for nonsense in ({"OPSUITE_LEVEL": "all"}, {"OPSUITE_CAP_BYTES": "much"}):
        with pytest.raises(UsageError, match="OPSUITE_"):
            Settings.from_environment(nonsense)


def test_the_levels_are_given_up_in_turn() -> None:
    by_share = {
        share: Room(used=share, limit=100, capped=True).refused() for share in (79, 80, 89, 90, 100)
    }
    assert by_share == {
        79: set(),
        80: {Level.SAMPLED},
        89: {Level.SAMPLED},
        90: {Level.SAMPLED, Level.TRIGGER},
        100: set(Level),
    }
    assert cap_of_rank(10 * 10**9, 8) == 1_250_000_000
    assert cap_of_rank(10 * 10**9, 100_000) == MIB


def test_a_disk_with_little_left_is_a_cap_too(tmp_path: Path) -> None:
    (tmp_path / "trainer1-a.00000.seg").write_bytes(bytes(5_000))
    (tmp_path / "trainer12-a.00000.seg").write_bytes(bytes(5_000))
    room = look(tmp_path, "trainer1-", 10**18)
    assert room.used == 5_000
    assert not room.capped
    assert 5_000 <= room.limit < 10**18
    nearly_full = Room(used=0, limit=HEADER_SIZE + BLOCK_SIZE, capped=False)
    assert nearly_full.blocks(0) == 1
    assert not nearly_full.refused()
    assert Room(used=1, limit=HEADER_SIZE + BLOCK_SIZE, capped=False).blocks(0) == 0


def fill(recorder: Recorder, rounds: int) -> None:
    for number in range(rounds):
        recorder.record_span("step", number, number + 1, number)
        recorder.record_span("kernel.gemm", number, number + 1, number)
        recorder.sample("stack", 0.0, number)


def test_a_full_spool_drops_by_class_and_goes_on_when_there_is_space(
    identity: Identity, tmp_path: Path, clock: list[int]
) -> None:
    """Every record is either there or counted, in the headers and by class."""
    rounds = 9_000
    recorder = open_recorder(tmp_path, identity, level=Level.TRIGGER, cap_bytes=CAP)
    fill(recorder, rounds)
    on_disk = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert on_disk <= MIB
    full = SpoolReader(tmp_path).poll()
    found, dropped = counts(full), sum(batch.dropped for batch in full)
    assert found["step"] > found["stack"] > found["kernel.gemm"] > 3_000
    assert found["step"] + found["stack"] + found["kernel.gemm"] + dropped == 3 * rounds
    # The collector takes over all but the last segment, and deletes them.
    for path in sorted(tmp_path.iterdir())[:-1]:
        path.unlink()
    fill(recorder, 1)
    assert counts(SpoolReader(tmp_path).poll())["step"] < found["step"], "it looks once a second"
    clock[0] += 1_000_000_001
    fill(recorder, 100)
    recorder.close()
    again = SpoolReader(tmp_path, {batch.segment: batch.position for batch in full}).poll()
    more = counts(again)
    assert (more["step"], more["kernel.gemm"], more["stack"]) == (100, 100, 100)
    everything = told([*full, *again])
    assert everything == {
        "always": rounds + 1 - found["step"],
        "sampled": rounds + 1 - found["kernel.gemm"],
        "trigger": rounds + 1 - found["stack"],
    }


def test_drops_of_a_class_are_told_while_recording_goes_on(
    identity: Identity, tmp_path: Path, clock: list[int]
) -> None:
    recorder = open_recorder(tmp_path, identity, cap_bytes=CAP)
    fill(recorder, 7_000)  # into the last fifth of the cap
    clock[0] += 1_000_000_001
    fill(recorder, 1)
    live = SpoolReader(tmp_path).poll()
    assert told(live)["sampled"] > 0
    assert counts(live)["step"] == 7_001
    assert sum(told(live).values()) == sum(batch.dropped for batch in live)
    recorder.close()


def test_a_spool_that_is_full_from_the_start_does_not_stop_the_trainer(
    identity: Identity, tmp_path: Path, clock: list[int]
) -> None:
    """An earlier attempt of the rank filled it: its segments count, until they are taken over."""
    earlier = tmp_path / "trainer3-1-00000000.00000.seg"
    earlier.write_bytes(bytes(MIB))
    recorder = open_recorder(tmp_path, identity, cap_bytes=CAP)
    fill(recorder, 10)
    assert list(tmp_path.iterdir()) == [earlier]
    earlier.unlink()
    clock[0] += 1_000_000_001
    fill(recorder, 10)
    recorder.close()
    batches = SpoolReader(tmp_path).poll()
    assert counts(batches)["step"] == 10
    assert told(batches) == {"always": 10, "sampled": 10}
    assert [batch.dropped for batch in batches] == [20]
