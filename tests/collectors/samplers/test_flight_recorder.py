"""Flight-recorder dumps: real ones of NCCL and gloo, odd ones, and hostile ones."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from collectors.errors import DataError
from collectors.samplers.flight_recorder import parse_flight_dump, read_flight_dump
from collectors.samplers.last_collectives import last_entries
from collectors.samplers.restricted_pickle import read_plain_pickle

REAL = Path(__file__).parents[4] / "shared" / "diag" / "flight_recorder"
needs_real = pytest.mark.skipif(not REAL.exists(), reason="no real dumps beside the checkout")

GLOO = """
import os, sys, threading, time
import torch
import torch.distributed as dist
from torch._C import _distributed_c10d as c10d

directory = sys.argv[1]
rank = 0 if os.fork() else 1

def write(name, data):
    with open(f"{directory}/{name}{rank}", "wb") as file:
        file.write(data)

def dump():
    time.sleep(0.5)
    write("_dump_", c10d._dump_fr_trace())
    write("json_", c10d._dump_fr_trace_json())
    if rank == 0:
        os.wait()
    os._exit(0)

dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=2)
values = torch.ones(4, 3)
dist.all_reduce(values)
time.sleep(0.3)  # gloo's thread tells its caller first, and counts what has completed after that
write("early_", c10d._dump_fr_trace())
dist.broadcast(values, 0, group=dist.new_group([0, 1]))
threading.Thread(target=dump).start()
if rank == 0:
    dist.all_reduce(torch.ones(5, dtype=torch.float64))  # the other never comes
time.sleep(60)
"""


def _dumps(case: str) -> dict[int, Path]:
    return {int(path.name[6:]): path for path in (REAL / case).glob("_dump_*")}


@needs_real
@pytest.mark.parametrize("case", ["gpu_error_1st", "lock_gil_2nd"])
def test_real_dumps_of_nccl_are_read_as_pickle_reads_them(case: str) -> None:
    dumps = _dumps(case)
    assert len(dumps) == 16
    for rank, path in dumps.items():
        truth = pickle.loads(path.read_bytes())
        assert read_plain_pickle(path) == truth
        dump = read_flight_dump(path)
        assert (dump.rank, dump.version) == (rank, "2.9")
        assert len(dump.records) == len(truth["entries"])
        assert {name: len(group.ranks) for name, group in dump.groups.items()} == {
            name: told["ranks"].count(",") + 1 for name, told in truth["pg_config"].items()
        }


@needs_real
@pytest.mark.parametrize("case", ["gpu_error_1st", "lock_gil_2nd"])
def test_groups_are_called_the_same_by_all_their_members(case: str) -> None:
    """Also by ranks whose dump has no entry: their groups follow from the order of the others."""
    names: dict[tuple[Any, ...], set[str]] = {}
    for path in _dumps(case).values():
        dump = read_flight_dump(path)
        entries = last_entries(dump)
        assert len(entries) == len(dump.statuses)
        for entry in entries:
            assert entry.rank in entry.ranks
            names.setdefault((entry.group.partition("[")[0], entry.ranks), set()).add(entry.group)
    assert all(len(found) == 1 for found in names.values())


@needs_real
def test_who_is_behind_shows_in_the_last_entries() -> None:
    """14 enqueued for its neighbour, and completed nothing of it; 10 and 15 enqueued no more."""
    dumps = _dumps("gpu_error_1st")
    entries = {entry.group: entry for entry in last_entries(read_flight_dump(dumps[14]))}
    behind = entries["TENSOR_MODEL_PARALLEL_GROUP[14,15]"]
    assert (behind.sequence, behind.completed) == (42826, 42805)
    assert (behind.operation, behind.sizes, behind.dtype) == (
        "all_gather_base",
        "[4096, 1, 5120]",
        "BFloat16",
    )
    for rank in (10, 15):
        entries = {
            entry.group: entry
            for entry in last_entries(read_flight_dump(_dumps("lock_gil_2nd")[rank]))
        }
        assert all(entry.sequence == entry.completed for entry in entries.values())
        assert "EXPERT_MODEL_PARALLEL_GROUP[8-11]" in entries or rank == 15


def test_a_real_deadlock_of_gloo(tmp_path: Path) -> None:
    """What has completed is told though the state of every entry stays "scheduled"."""
    pytest.importorskip("torch")
    script = tmp_path / "train.py"
    script.write_text(GLOO)
    subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        check=True,
        timeout=60,
        env={**os.environ, "TORCH_FR_BUFFER_SIZE": "2000", "OMP_NUM_THREADS": "1"},
    )
    [early] = last_entries(read_flight_dump(tmp_path / "early_0"))
    assert (early.group, early.ranks, early.completed) == ("default_pg[0,1]", (0, 1), 1)
    waits, idle = (
        last_entries(read_flight_dump(tmp_path / f"_dump_{rank}"), world_size=2) for rank in (0, 1)
    )
    assert [entry.group for entry in waits] == ["default_pg[0,1]", "group 1"]
    assert (waits[0].sequence, waits[0].completed) == (2, 1)
    assert (waits[0].operation, waits[0].sizes, waits[0].dtype) == ("all_reduce", "[5]", "Double")
    line = GLOO.partition("dist.all_reduce(torch")[0].count("\n") + 1
    assert waits[0].where == f"train.py:{line}"
    assert (idle[0].rank, idle[0].sequence, idle[0].completed) == (1, 1, 1)
    as_json = last_entries(read_flight_dump(tmp_path / "json_0"), world_size=2)
    assert [replace(entry, where="") for entry in waits] == list(as_json), "JSON has no lines"


def _document() -> dict[str, Any]:
    frames = [
        {"name": name, "filename": filename, "line": line}
        for name, filename, line in (
            ("all_reduce", "/v/lib/python3.11/site-packages/torch/distributed/c10d.py", 3245),
            ("forward", "/home/a/net.py", 12),
            ("<module>", "/home/a/train.py", 41),
        )
    ]
    entry = {
        "frames": frames,
        "record_id": 0,
        "pg_id": 0,
        "process_group": ("0", "default_pg"),
        "collective_seq_id": 1,
        "p2p_seq_id": 0,
        "is_p2p": False,
        "op_id": 1,
        "profiling_name": "nccl:all_reduce",
        "input_sizes": [[4, 3]],
        "input_dtypes": ["Float"],
        "output_sizes": [[4, 3]],
        "state": "completed",
        "retired": True,
        "time_created_ns": 1795466745492325842,
        "time_discovered_started_ns": None,
        "time_discovered_completed_ns": None,
        "timeout_ms": 600000,
    }
    return {
        "version": "2.10",
        "pg_config": {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1]"}},
        "pg_status": {"0": {"last_enqueued_collective": 2, "last_completed_collective": 1}},
        "entries": [entry, {**entry, "collective_seq_id": 2, "retired": False, "state": "started"}],
    }


def test_the_users_line_is_named_and_missing_figures_are_none() -> None:
    dump = parse_flight_dump(pickle.dumps(_document()), 3)
    [entry] = last_entries(dump)
    assert (entry.where, entry.operation) == ("net.py:12", "all_reduce")
    record = dump.records[0]
    assert record.frames[1].path == "/home/a/net.py"
    assert (record.started_ns, record.completed_ns, record.timeout_s) == (None, None, 600.0)
    assert dump.statuses[0].started is None


def test_without_a_status_what_is_retired_has_completed() -> None:
    document = _document() | {"pg_status": {}}
    [entry] = last_entries(parse_flight_dump(json.dumps(document).encode()))
    assert (entry.rank, entry.sequence, entry.completed) == (-1, 2, 1)


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps({"version": "3.0", "entries": []}),
        pickle.dumps([1, 2]),
        b'{"version": "2.1", "entries": [',
        b"{" * 100_000,
        b"",
        b"<html>",
    ],
)
def test_what_is_no_dump_is_a_data_error(data: bytes) -> None:
    with pytest.raises(DataError):
        parse_flight_dump(data, 0)


def test_a_hostile_file_runs_nothing_and_says_so(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "_dump_0"

    class Hostile:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {canary}",)

    path.write_bytes(pickle.dumps(_document() | {"extra": Hostile()}, 2))
    with pytest.raises(DataError, match=r"\(posix.system\).*nothing was run"):
        read_flight_dump(path)
    assert not canary.exists()


def test_entries_that_refer_to_each_other_a_million_times_are_refused() -> None:
    document = _document()
    small = document["entries"][0]
    large = small | {"frames": small["frames"] * 1000}
    for entries in ([large] * 20_000, [small] * 100_000):
        data = pickle.dumps(document | {"entries": entries})
        assert len(data) < 300_000
        with pytest.raises(DataError, match="more than"):
            parse_flight_dump(data, 0)


def test_values_of_any_type_in_any_place_are_survived() -> None:
    odd: list[Any] = [
        None,
        [],
        {},
        (),
        "x",
        "",
        -1,
        1 << 70,
        1.5,
        float("nan"),
        True,
        [[[]]],
        {"a": {}},
    ]
    chance = random.Random(3)
    for _ in range(1500):
        document = copy.deepcopy(_document())
        place: Any = document
        while True:
            key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
            inner = place[key]
            if not isinstance(inner, (dict, list)) or not inner or chance.random() < 0.3:
                break
            place = inner
        place[key] = chance.choice(odd)
        try:
            last_entries(parse_flight_dump(pickle.dumps(document), 0), world_size=2)
        except DataError:
            continue
