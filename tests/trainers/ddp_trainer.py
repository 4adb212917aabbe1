"""Train a small image classifier with DistributedDataParallel.

torchrun --nproc-per-node 2 ddp_trainer.py --steps 100
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import faults  # type: ignore[import-not-found]  # beside this script
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler


class Images(Dataset[tuple[torch.Tensor, int]]):
    """Noise with a bright stripe; the class is where the stripe is."""

    def __init__(self, args: argparse.Namespace, trouble: faults.Trouble) -> None:
        self.size: int = args.samples
        self.batch_size = args.batch_size
        self.trouble = trouble

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.trouble.in_dataset(batch_size=self.batch_size)
        label = index % 10
        generator = torch.Generator().manual_seed(index)
        image = torch.rand(1, 28, 28, generator=generator)
        image[0, 2 * label : 2 * label + 3] += 1.0
        return image, label


class Net(nn.Module):
    """Two convolutions and two linear layers."""

    def __init__(self, width: int, trouble: faults.Trouble) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(4),
        )
        self.head = nn.Sequential(nn.Linear(2 * width * 49, 128), nn.ReLU(), nn.Linear(128, 10))
        self.trouble = trouble

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [batch, 10]."""
        self.trouble.in_forward()
        hidden = self.features(images).flatten(1)
        if hidden.requires_grad:
            hidden.register_hook(self.trouble.in_backward)
        logits: torch.Tensor = self.head(hidden)
        return logits


def train(args: argparse.Namespace) -> None:
    """All steps, on this rank."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(args.seed)
    trouble = faults.Trouble(args)
    dataset = Images(args, trouble)
    sampler: DistributedSampler[tuple[torch.Tensor, int]] = DistributedSampler(
        dataset, num_replicas=world_size, rank=rank, seed=args.seed
    )
    loader = DataLoader(
        dataset,
        batch_size=args.batch_size,
        sampler=sampler,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
        drop_last=True,
    )
    net = Net(args.width, trouble)
    trouble.compile(net)
    model = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    if args.watch:
        import opsuite

        opsuite.watch(model, optimizer)
    criterion = nn.CrossEntropyLoss()
    step, epoch, start = 0, 0, time.perf_counter()
    while step < args.steps:
        sampler.set_epoch(epoch)
        for images, labels in loader:
            trouble.begin(step)
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            if step % args.log_every == 0:
                mean = loss.detach().clone()
                trouble.before_collective()
                dist.all_reduce(mean)
                if rank == 0:
                    elapsed = time.perf_counter() - start
                    print(f"step {step} loss {mean / world_size:.4f} {elapsed:.1f} s", flush=True)
            step += 1
            if args.save_every and step % args.save_every == 0:
                save(args, trouble, model, optimizer, step)
            if args.evaluate_every and step % args.evaluate_every == 0:
                evaluate(args, model, dataset)
            if step == args.steps:
                break
        epoch += 1


def save(
    args: argparse.Namespace,
    trouble: faults.Trouble,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
) -> None:
    """The first rank writes a checkpoint; the others wait for it."""
    if dist.get_rank() == 0:
        Path(args.checkpoints).mkdir(parents=True, exist_ok=True)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        trouble.save(state, Path(args.checkpoints) / f"step-{step}.pt")
    dist.barrier()


def evaluate(args: argparse.Namespace, model: DistributedDataParallel, dataset: Images) -> None:
    """The first rank looks how good the model is; the others wait for it."""
    if dist.get_rank() == 0:
        model.eval()
        end = time.monotonic() + (args.innocent_s if args.innocent == "long-evaluation" else 0)
        right, index = 0, 0
        with torch.no_grad():
            while index < 64 or time.monotonic() < end:
                image, label = dataset[index % len(dataset)]
                right += int(model.module(image[None]).argmax() == label)
                index += 1
                time.sleep(args.evaluate_sleep_s)
        print(f"accuracy {right / index:.3f}", flush=True)
        model.train()
    dist.barrier()


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--samples", type=int, default=8192)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-every", type=int, default=10)
    parser.add_argument("--save-every", type=int, default=0)
    parser.add_argument("--checkpoints", default=".")
    parser.add_argument("--evaluate-every", type=int, default=0)
    parser.add_argument("--evaluate-sleep-s", type=float, default=0.0)
    parser.add_argument("--watch", action="store_true", help="with opsuite's two lines")
    faults.add_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Join the others, and train."""
    args = parse_arguments()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    dist.init_process_group("gloo")
    train(args)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
