"""A plain training loop that torchrun starts again: DistributedDataParallel, a checkpoint by torch.

``torchrun --max-restarts N restarting_loop.py TASK LOG`` trains the model of ``plain_loop.py``;
at the steps that the task names one of its ranks kills itself, once. Rank 0 writes a line to LOG at
the end of each step, and whoever is killed before: ``step seconds`` or ``killed seconds``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch.nn.parallel import DistributedDataParallel

from benchmarks.baselines.plain_loop import Model


def main() -> None:
    """Train from the last checkpoint on."""
    task: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    log = Path(sys.argv[2])
    torch.set_num_threads(1)
    # Each attempt meets anew: in the agent's store gloo finds addresses of ranks that were killed.
    attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
    dist.init_process_group(
        "gloo",
        init_method=f"file://{log.resolve()}.meeting{attempt}",
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    rank = dist.get_rank()
    torch.manual_seed(0)
    model = DistributedDataParallel(Model(task))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    saved = log.with_suffix(".pt")
    first = 1
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"] + 1
    generator = torch.Generator().manual_seed(rank)
    shape = (task["batch_size"] // dist.get_world_size(), task["seq_len"] + 1)
    for step in range(first, task["steps"] + 1):
        if step in task["kills"] and rank == 1:
            _die_once(log, step)
        window = torch.randint(0, task["vocab_size"], shape, generator=generator)
        logits = model(window[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        if rank == 0:
            if step % task["every"] == 0:
                aside = saved.with_suffix(".tmp")
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save({**state, "step": step}, aside)
                aside.replace(saved)
            _note(log, str(step))
        dist.barrier()
    dist.destroy_process_group()


def _die_once(log: Path, step: int) -> None:
    mark = log.with_suffix(f".struck{step}")
    if not mark.exists():
        mark.touch()
        _note(log, "killed")
        os.kill(os.getpid(), signal.SIGKILL)


def _note(log: Path, what: str) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{what} {time.time()}\n")


if __name__ == "__main__":
    main()
