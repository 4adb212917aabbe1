"""Trainers that do things their own way, one after the other on the command line.

torchrun --nproc-per-node 2 odd_trainers.py accumulation
python odd_trainers.py spawned
"""

from __future__ import annotations

import argparse
import os
import socket
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from collections.abc import Callable

_WATCH = bool(os.environ.get("WATCH"))


def watch(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """The two lines."""
    if _WATCH:
        import opsuite

        opsuite.watch(model, optimizer)


def net() -> nn.Sequential:
    """A little work."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))


def loss_of(model: Any) -> torch.Tensor:
    """Of a batch out of nowhere."""
    batch = torch.randn(32, 64)
    loss: torch.Tensor = (model(batch) - batch).square().mean()
    return loss


def single(steps: int) -> None:
    """One process without torch.distributed."""
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    watch(model, optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()


def accumulation(steps: int) -> None:
    """Gradients of four batches are summed before the ranks exchange them."""
    dist.init_process_group("gloo")
    model = DistributedDataParallel(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watch(model, optimizer)
    for _ in range(steps):
        for part in range(4):
            with model.no_sync() if part < 3 else nullcontext():
                loss_of(model).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    dist.destroy_process_group()


def adversaries(steps: int) -> None:
    """Two models, each with an optimizer of its own."""
    dist.init_process_group("gloo")
    maker, judge = (DistributedDataParallel(net()) for _ in range(2))
    making = torch.optim.Adam(maker.parameters())
    judging = torch.optim.Adam(judge.parameters())
    watch(maker, making)
    for _ in range(steps):
        noise = torch.randn(32, 64)
        judging.zero_grad()
        (judge(maker(noise).detach()).mean() - judge(noise).mean()).backward()
        judging.step()
        making.zero_grad()
        (-judge(maker(noise)).mean()).backward()
        making.step()
    dist.destroy_process_group()


def asynchronous(steps: int) -> None:
    """No DistributedDataParallel: gradients are reduced by hand, and waited for at the end."""
    dist.init_process_group("gloo")
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watch(model, optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        works = [
            dist.all_reduce(p.grad, async_op=True) for p in model.parameters() if p.grad is not None
        ]
        for work in works:
            assert work is not None
            work.wait()
        optimizer.step()
    dist.destroy_process_group()


def compiled(steps: int) -> None:
    """The model is compiled, its optimizer's step too."""
    dist.init_process_group("gloo")
    model = DistributedDataParallel(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watch(model, optimizer)
    fast: Any = torch.compile(model, backend="aot_eager")
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(fast).backward()
        optimizer.step()
    dist.destroy_process_group()


def raising(steps: int) -> None:
    """The last rank does not like its data."""
    dist.init_process_group("gloo")
    model = DistributedDataParallel(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watch(model, optimizer)
    for step in range(steps):
        if step == steps // 2 and dist.get_rank() == dist.get_world_size() - 1:
            raise ValueError(f"step {step}: label 11 of 10")
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()


def exiting(steps: int) -> None:
    """The last rank leaves without a word, the others leave in a hurry."""
    dist.init_process_group("gloo")
    model = DistributedDataParallel(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watch(model, optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    print("trained", flush=True)
    os._exit(3 if dist.get_rank() == dist.get_world_size() - 1 else 0)


def spawned(steps: int) -> None:
    """The script starts its ranks by itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(spawned_rank, args=(2, port, steps), nprocs=2)  # type: ignore[attr-defined]


def spawned_rank(rank: int, world_size: int, port: int, steps: int) -> None:
    """One of them."""
    where = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=world_size)
    model = DistributedDataParallel(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watch(model, optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    dist.destroy_process_group()


TRAINERS: dict[str, Callable[[int], None]] = {
    each.__name__: each
    for each in (
        single,
        accumulation,
        adversaries,
        asynchronous,
        compiled,
        raising,
        exiting,
        spawned,
    )
}


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trainer", choices=TRAINERS)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    TRAINERS[args.trainer](args.steps)
    print("done", flush=True)


if __name__ == "__main__":
    main()
