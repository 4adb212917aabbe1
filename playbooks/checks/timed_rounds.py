"""How long an operation among processes takes, agreed on by all of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

_MOST_ROUNDS = 100_000


def time_rounds(
    operate: Callable[[], None],
    *,
    prepare: Callable[[], None],
    seconds: float,
    device: torch.device,
) -> float:
    """Seconds of one ``operate`` in the mean of about ``seconds``, of the slowest process.

    All processes of the default group call it together. ``prepare`` runs before each and is not
    timed. They do equally many rounds, since nobody may wait for one who has finished.
    """
    _time(operate, prepare, device)  # the first opens connections
    each = _slowest(_time(operate, prepare, device), device)
    rounds = max(1, min(_MOST_ROUNDS, int(seconds / max(each, 1e-9))))
    total = sum(_time(operate, prepare, device) for _ in range(rounds))
    return _slowest(total, device) / rounds


def _time(operate: Callable[[], None], prepare: Callable[[], None], device: torch.device) -> float:
    prepare()
    _wait_for(device)
    begun = time.perf_counter()
    operate()
    _wait_for(device)
    return time.perf_counter() - begun


def _wait_for(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _slowest(seconds: float, device: torch.device) -> float:
    import torch
    import torch.distributed as dist

    longest = torch.tensor([seconds], device=device, dtype=torch.float64)
    dist.all_reduce(longest, op=dist.ReduceOp.MAX)
    return float(longest.item())
