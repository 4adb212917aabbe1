"""The operators of devices, in Triton's interpreter: ranks are processes, memory is in common."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("triton", reason="needs the engine extra, on Linux")

RANKS = """
import json, mmap, os, random, signal, sys, time
from types import SimpleNamespace
import torch
from collectors.recorder import NullRecorder
from engine.groups.group import CurrentStep, Group
from engine.overlap import operators as op
from engine.overlap.choices import Choice
from engine.overlap.device import DeviceTransport, latest_epochs
from engine.overlap.kernels.tile_shape import CommunicationShape, TileShape
from engine.peers.device import SIGNALS
from engine.peers.memory import PeerLost
from engine.peers.virtual import VirtualMemory
from engine.peers.watch import PeerWatch
from engine.peers.workspace import TURNS, Workspace

directory, direction, loss = sys.argv[1:]
size, part = 3, 1 << 20
torch.manual_seed(3)
torch.set_num_threads(1)

def shared(count, dtype):
    return torch.frombuffer(mmap.mmap(-1, count * dtype.itemsize), dtype=dtype, count=count)

buffers = [shared(TURNS * part, torch.uint8).fill_(255) for _ in range(size)]  # NaN
signals = [shared(SIGNALS, torch.int32) for _ in range(size)]
pids = shared(size, torch.int64)
children = []
for rank in range(size):
    pid = os.fork()
    if not pid:
        break
    children.append(pid)
else:
    sys.exit(any([os.waitpid(pid, 0)[1] for pid in children]))
pids[rank] = os.getpid()
while not pids.all():
    time.sleep(0.001)

late = random.Random(rank)
class LateMemory(VirtualMemory):
    def write_signal(self, rank, index, value):
        time.sleep(late.random() * 0.01)
        super().write_signal(rank, index, value)

group = Group(
    axis="tp", ranks=range(size), global_rank=rank, process_group=None, recorder=NullRecorder(),
    current_step=CurrentStep(), synchronous=False,
)
shape = TileShape(block_m=16, block_n=16, block_k=16, group_m=2, stages=1, warps=4)
choice = Choice(tile=shape, communication=CommunicationShape(splits=2, direction=direction))
watch = PeerWatch(
    ranks=range(size), timeout_s=60.0 if loss != "stalls" else 3.0,
    processes={place: int(pid) for place, pid in enumerate(pids) if place != rank},
    latest=lambda signals: latest_epochs(signals, size),
)
transport = DeviceTransport(
    Workspace(lambda nbytes: LateMemory(rank, buffers, signals, torch.device("cpu"))),
    rank=rank, size=size, device=torch.device("cpu"), meet=group.meet, watch=watch,
    choices=SimpleNamespace(of=lambda sizes: choice),
)

def tell(told):
    with open(f"{directory}/told-{rank}", "w") as file:
        json.dump(told, file)
    os._exit(0)
"""
EXACT = """
def part_of(whole, dim=0):
    return whole.chunk(size, dim)[rank].clone()

def far(ours, exact):
    return (ours.double() - exact).abs().max().item() / exact.abs().max().item()

worst = 0.0
for keep in (False, True):
    on = SimpleNamespace(transport=transport, keep_gathered=keep)
    for rows, k, n in ((5, 9, 7), (20, 16, 32)):
        x, w = torch.randn(rows * size, k), torch.randn(n * size, k)
        u, v = torch.randn(n * size, k), torch.randn(k, n * size)
        exact = [t.double().requires_grad_() for t in (x, w, u, v)]
        y = ((exact[0] @ exact[1].t()) * (exact[0] @ exact[2].t())) @ exact[3].t()
        grad = torch.randn(rows * size, k)
        y.backward(grad.double())
        mine = [part_of(x), part_of(w), part_of(u), part_of(v, 1)]
        for each in mine:
            each.requires_grad_()
        a, b = op.all_gather_matmul(mine[0], mine[1:3], on)
        out = op.matmul_reduce_scatter(a * b, mine[3], on)
        out.backward(part_of(grad))
        worst = max(worst, far(out, part_of(y.detach())))
        for ours, theirs, dim in zip(mine, exact, (0, 0, 0, 1)):
            worst = max(worst, far(ours.grad, part_of(theirs.grad, dim)))
        total = op.matmul_all_reduce(x, w, on)
        worst = max(worst, far(total, size * x.double() @ w.double().t()))
        worst = max(worst, far(op.reduce_scatter(x, on), size * part_of(x.double())))
tell(worst)
"""
LOSE = """
on = SimpleNamespace(transport=transport, keep_gathered=False)
x, w = torch.randn(20, 16), torch.randn(32, 16)
calls = [
    lambda: op.all_gather_matmul(x, [w], on),
    lambda: op.matmul_reduce_scatter(x.repeat(size, 1), w, on),
    lambda: op.matmul_all_reduce(x, w, on),
    lambda: transport.gather(x).whole(),
]
for call in calls:
    call()
transport.check()
if rank == 1:
    begin = transport._workspace.begin
    def begin_and_no_more(nbytes):
        begin(nbytes)  # its place is taken, and what belongs there never comes
        if loss == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(8)
        os._exit(0)
    transport._workspace.begin = begin_and_no_more
begun = time.monotonic()
try:
    calls[int(direction == "push")]()
    transport.check()
except PeerLost as error:
    tell([error.rank, error.what, error.where, time.monotonic() - begun])
"""


def ranks_do(
    directory: Path, what: str, *, direction: str, loss: str = ""
) -> subprocess.CompletedProcess[bytes]:
    script = directory / "ranks.py"
    script.write_text(RANKS + what)
    return subprocess.run(
        [sys.executable, "-P", str(script), str(directory), direction, loss],
        check=False,
        timeout=120,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_values_and_gradients_are_exact(tmp_path: Path, direction: str) -> None:
    """Forward and backward, signals late by chance, memory full of NaN at first."""
    assert ranks_do(tmp_path, EXACT, direction=direction).returncode == 0
    for rank in range(3):
        assert json.loads((tmp_path / f"told-{rank}").read_text()) < 2e-6


@pytest.mark.parametrize(
    ("direction", "loss"),
    [
        ("push", "dies"),
        ("pull", "dies"),
        pytest.param("pull", "stalls", marks=pytest.mark.slow),
        pytest.param("push", "stalls", marks=pytest.mark.slow),
    ],
)
def test_kernels_that_wait_for_a_lost_peer_end(tmp_path: Path, direction: str, loss: str) -> None:
    """And all others name it: what their kernels made is not taken for a result."""
    ranks_do(tmp_path, LOSE, direction=direction, loss=loss)
    for rank in (0, 2):
        named, what, where, after_s = json.loads((tmp_path / f"told-{rank}").read_text())
        assert named == 1
        assert what == "rank 1 " + ("has ended" if loss == "dies" else "did not come within 3 s")
        assert where == ("reduce_scatter" if direction == "push" else "all_gather_matmul")
        assert after_s < (3 if loss == "dies" else 7)
