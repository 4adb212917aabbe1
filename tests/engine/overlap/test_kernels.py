"""Kernels in Triton's interpreter, between processes with memory in common, against float64."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("triton", reason="needs the engine extra, on Linux")

PROGRAM = """
import json, mmap, os, random, sys, time
import torch
from engine.overlap.kernels.launching import (
    Place, add_terms, gathered_rows_product, hold_stream, product, product_to_owners, split_rows,
)
from engine.overlap.kernels.tile_shape import MAX_SPLITS, TileShape

awaits = json.loads(sys.argv[1])
torch.manual_seed(3)
torch.set_num_threads(1)
SHAPE = TileShape(block_m=16, block_n=16, block_k=16, group_m=2, stages=1, warps=4)
chance = random.Random(5)

def shared(*shape, dtype=torch.float32, fill=float("nan")):
    count = torch.Size(shape).numel()
    pages = mmap.mmap(-1, max(1, count * dtype.itemsize))
    flat = torch.frombuffer(pages, dtype=dtype, count=count)
    return flat.fill_(fill).view(shape)

def in_processes(*works):
    children = []
    for number, work in enumerate(works):
        pid = os.fork()
        if not pid:
            late = random.Random(number)
            work(lambda: time.sleep(late.random() * 0.02 if awaits else 0.5))
            os._exit(0)
        children.append(pid)
    return children

def ended(children):
    assert not any([os.waitpid(pid, 0)[1] for pid in children])

def far(ours, exact):
    return ((ours.double() - exact).abs().max() / exact.abs().max()).item()

def limit(dtype):
    return 5e-7 if dtype == torch.float32 else 2e-3

def gather(rows, n, k, size, splits, dtype, rank):
    whole = torch.randn(rows * size, k).to(dtype)
    weight = torch.randn(n, k).to(dtype)
    there = shared(rows * size, k, dtype=dtype)
    signals = shared(size * MAX_SPLITS, dtype=torch.int32, fill=0)
    mine = slice(rank * rows, (rank + 1) * rows)
    there[mine] = whole[mine]

    def write(shard):
        def work(pause):
            height = split_rows(rows, splits)
            order = list(range(-(-rows // height)))
            random.Random(shard).shuffle(order)
            for split in order:
                pause()
                begin = shard * rows + split * height
                part = slice(begin, min(begin + height, (shard + 1) * rows))
                there[part] = whole[part]
                signals[shard * MAX_SPLITS + split] = 7
        return work

    children = in_processes(*(write(other) for other in range(size) if other != rank))
    out = gathered_rows_product(
        there, weight, signals, epoch=7, splits=splits, place=Place(rank=rank, size=size),
        shape=SHAPE, scale=0.5, awaits=awaits,
    )
    ended(children)
    return far(out, whole.double() @ weight.double().t() * 0.5) <= limit(dtype)

def scatter(rows, n, k, size, dtype):
    x = [torch.randn(rows * size, k).to(dtype) for _ in range(size)]
    weight = [torch.randn(k, n).to(dtype).t() for _ in range(size)]  # transposed, as in backward
    slots = [shared(size, rows, n, dtype=dtype) for _ in range(size)]
    signals = [shared(size, dtype=torch.int32, fill=0) for _ in range(size)]
    outs = [shared(rows, n, dtype=dtype) for _ in range(size)]
    clean = shared(size, dtype=torch.int32, fill=-1)

    def run(rank):
        def work(pause):
            place, done = Place(rank=rank, size=size), torch.zeros(size, dtype=torch.int32)
            if rank:
                pause()
            product_to_owners(
                x[rank], weight[rank],
                slots=torch.tensor([theirs[rank].data_ptr() for theirs in slots]),
                signals=torch.tensor([theirs.data_ptr() for theirs in signals]),
                done=done, epoch=3, place=place, signal_index=rank, shape=SHAPE,
            )
            clean[rank] = int(done.abs().sum())
            terms = torch.tensor([slots[rank][other].data_ptr() for other in range(size)])
            add_terms(terms, outs[rank], signals[rank], epoch=3, place=place, awaits=awaits)
        return work

    ended(in_processes(*(run(rank) for rank in range(size))))
    assert not clean.any(), "counters are left as they were found"
    exact = sum(a.double() @ b.double().t() for a, b in zip(x, weight))
    parts = exact.chunk(size)
    return all(far(out, part) <= limit(dtype) for out, part in zip(outs, parts))

for dtype in (torch.float32, torch.float16) if awaits else (torch.float32,):
    for _ in range(3):
        m, n, k = (chance.randint(1, 50) for _ in range(3))
        x, w = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
        right = far(product(x, w, shape=SHAPE), x.double() @ w.double().t()) <= limit(dtype)
        print(json.dumps(["product", m, n, k, right]))
        rows, n, k, size = chance.randint(1, 40), chance.randint(1, 40), chance.randint(1, 40), 3
        splits, rank = chance.randint(1, 4), chance.randrange(size)
        right = gather(rows, n, k, size, splits, dtype, rank)
        print(json.dumps(["gather", rows, n, k, right]))
        right = scatter(rows, n, k, 2 + chance.randrange(2), dtype)
        print(json.dumps(["scatter", rows, n, k, right]))
signals = shared(3, dtype=torch.int32, fill=0)
def late(pause):
    time.sleep(0.1)
    signals[:] = 2**31 - 1  # poisoned
child = in_processes(late)
begun = time.monotonic()
hold_stream(signals, epoch=5, count=3)
print(json.dumps(["hold", time.monotonic() - begun, True]))
ended(child)
"""


def _run(script: Path, *, awaits: bool) -> list[list[Any]]:
    script.write_text(PROGRAM)
    told = subprocess.run(
        [sys.executable, "-P", str(script), json.dumps(awaits)],
        check=True,
        timeout=120,
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
    )
    return [json.loads(line) for line in told.stdout.splitlines()]


def test_products_are_right_however_late_their_parts_come(tmp_path: Path) -> None:
    """Uneven sizes, arrivals late and in any order, memory full of NaN at first."""
    told = _run(tmp_path / "kernels.py", awaits=True)
    assert len(told) == 19
    assert all(line[-1] for line in told), told
    [hold] = [line for line in told if line[0] == "hold"]
    assert hold[1] >= 0.09


def test_without_waiting_they_are_wrong(tmp_path: Path) -> None:
    """So it is the waiting that makes them right."""
    told = _run(tmp_path / "kernels.py", awaits=False)
    assert not any(line[-1] for line in told if line[0] in ("gather", "scatter")), told
    assert all(line[-1] for line in told if line[0] == "product")
