"""Train in turns, without opsuite and with it, and print how long a step takes in each.

    torchrun --nproc-per-node 2 turns_trainer.py --turns 20 --steps 100

A turn without is one without its daemons too: the processes given by ``--pause`` stand still.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

WARM_UP = 10
LOG_EVERY = 10


class Training:
    """A small network on images of noise, step by step."""

    def __init__(self, batch_size: int, width: int) -> None:
        torch.manual_seed(dist.get_rank())
        images = torch.rand(64 * batch_size, 1, 28, 28)
        dataset = TensorDataset(images, torch.randint(10, (len(images),)))
        self.loader = DataLoader(dataset, batch_size=batch_size)
        self.batches = iter(self.loader)
        self.model = DistributedDataParallel(
            nn.Sequential(
                nn.Conv2d(1, width, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(width, 2 * width, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(4),
                nn.Flatten(),
                nn.Linear(2 * width * 49, 10),
            )
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.criterion = nn.CrossEntropyLoss()

    def run(self, steps: int) -> None:
        """Some steps."""
        for step in range(steps):
            batch = next(self.batches, None)
            if batch is None:
                self.batches = iter(self.loader)
                batch = next(self.batches)
            images, labels = batch
            self.optimizer.zero_grad()
            loss = self.criterion(self.model(images), labels)
            loss.backward()
            self.optimizer.step()
            if step % LOG_EVERY == 0:
                dist.all_reduce(loss.detach())


def turn(training: Training, steps: int, *, watched: bool) -> tuple[float, float]:
    """Seconds a step, by the clock and on the core."""
    if watched:
        import opsuite

        watch = opsuite.watch(training.model, training.optimizer)
    training.run(WARM_UP)
    dist.barrier()
    start, used = time.perf_counter(), time.process_time()
    training.run(steps)
    dist.barrier()
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - used
    if watched:
        assert watch.run_id is not None
        watch.stop()
    return seconds / steps, cpu_s / steps


def send(pids: list[int], number: signal.Signals) -> None:
    """From the first rank, when all have come."""
    dist.barrier()
    if dist.get_rank() == 0:
        for pid in pids:
            os.kill(pid, number)


def main() -> None:
    """The first rank prints the figures of the turns as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--pause", type=int, nargs="*", default=[])
    args = parser.parse_args()
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["LOCAL_RANK"]) % len(cores)]})
    dist.init_process_group("gloo")
    training = Training(args.batch_size, args.width)
    training.run(WARM_UP)
    figures: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
    for index in range(args.turns):
        for watched in (False, True) if index % 2 == 0 else (True, False):
            send(args.pause, signal.SIGCONT if watched else signal.SIGSTOP)
            figure = turn(training, args.steps, watched=watched)
            figures["with" if watched else "without"].append(figure)
    send(args.pause, signal.SIGCONT)
    if dist.get_rank() == 0:
        print("FIGURES", json.dumps(figures), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
