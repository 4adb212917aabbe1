"""The devices that a process may compute on."""

from __future__ import annotations

from typing import Literal

import torch

from collectors.errors import UsageError

DeviceChoice = Literal["auto", "cpu", "cuda"]


def pick_device(choice: DeviceChoice = "auto", local_rank: int = 0, ranks: int = 1) -> torch.device:
    """The device of one of ``ranks`` local processes; ``auto`` takes GPUs if there is one for each.

    Raises:
        UsageError: ``cuda`` was asked for and there are fewer GPUs than ranks.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if choice == "cpu" or (choice == "auto" and gpus < ranks):
        return torch.device("cpu")
    if gpus < ranks:
        raise UsageError(
            f"{ranks} rank(s) on cuda, and this machine has {gpus} usable GPU(s)",
            where="the device",
            remedy="compute on cpu, or start fewer ranks",
        )
    return torch.device("cuda", local_rank)
