"""All-to-all inside the host: among its GPUs (NCCL), or among processes on its cores (gloo)."""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from playbooks.checks.check import Measurement, Verdict
from playbooks.checks.child import Child, answer, depend_on_parent, run_children
from playbooks.checks.processors import gpu_count, usable_cores
from playbooks.checks.timed_rounds import time_rounds

NAME = "all-to-all"
_MOST_PROCESSES = 8
_BYTES = {"cpu": 4 << 20, "cuda": 256 << 20}  # that each process holds, for all together
_MARGIN_S = 1.0


@dataclass(frozen=True, kw_only=True)
class AllToAll:
    """The check: one process a GPU where there are several, and else one a core, up to eight.

    Attributes:
        grace_s: beyond the measuring, what all may take to start; then the check has failed.
        spoil: for tests: the rank that sends one wrong element.
    """

    grace_s: float = 60.0
    spoil: int | None = None
    name: str = NAME

    def measure(self, seconds: float) -> list[Measurement]:
        """One figure for the host: what its slowest process sends to the others a second."""
        if find_spec("torch") is None:
            return [_lacking("PyTorch is not installed")]
        gpus = gpu_count()
        device = "cuda" if gpus > 1 else "cpu"
        world = gpus if gpus > 1 else min(len(usable_cores()), _MOST_PROCESSES)
        if world < 2:
            return [_lacking("there is one core")]
        return [self._measure_among(world, device, seconds)]

    def _measure_among(self, world: int, device: str, seconds: float) -> Measurement:
        limit_s = seconds + self.grace_s - _MARGIN_S
        with tempfile.TemporaryDirectory() as directory:
            common = (str(world), str(Path(directory) / "store"), device, str(seconds))
            spoil = () if self.spoil is None else ("--spoil", str(self.spoil))
            children = [
                Child(module=__name__, arguments=(str(rank), *common, *spoil))
                for rank in range(world)
            ]
            answers = run_children(children, limit_s=limit_s)
        subject = f"{world} {'GPUs' if device == 'cuda' else 'processes'}"
        failures = {rank: given.failure for rank, given in enumerate(answers) if given.failure}
        rates, wrong = _collect([given.document for given in answers if not given.failure])
        fault, detail = None, ""
        if failures:
            fault = Verdict.FAILED
            detail = "; ".join(f"rank {rank}: {why}" for rank, why in failures.items())
        elif wrong:
            fault, detail = Verdict.CORRUPT, f"wrong data from rank {', '.join(map(str, wrong))}"
        return Measurement(
            check=NAME,
            subject=subject,
            metric=subject,
            value=None if failures else min(rates) / 1e9,
            unit="GB/s",
            fault=fault,
            detail=detail,
        )


def _lacking(why: str) -> Measurement:
    return Measurement(check=NAME, subject="host", metric="", fault=Verdict.SKIPPED, detail=why)


def _collect(documents: list[dict[str, Any]]) -> tuple[list[float], list[int]]:
    """Rates, and the ranks of which somebody got wrong data."""
    wrong = {sender for document in documents for sender in document["wrong"]}
    return [document["rate"] for document in documents], sorted(wrong)


# -- one rank, in a process of its own -----------------------------------------------------------


def main() -> None:
    """Exchange with the other ranks and print this one's rate and who sent wrong data."""
    depend_on_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("rank", type=int)
    parser.add_argument("world", type=int)
    parser.add_argument("store")
    parser.add_argument("device", choices=list(_BYTES))
    parser.add_argument("seconds", type=float)
    parser.add_argument("--spoil", type=int)
    answer(_exchange(**vars(parser.parse_args())))


def _exchange(
    *, rank: int, world: int, store: str, device: str, seconds: float, spoil: int | None
) -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    _prefer_loopback()
    place = torch.device(device, rank) if device == "cuda" else torch.device("cpu")
    torch.set_num_threads(1)
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=60),
        device_id=place if device == "cuda" else None,
    )
    elements = _BYTES[device] // (4 * world)  # for each of the others, and for itself
    ranks = torch.arange(world, dtype=torch.int32, device=place).repeat_interleave(elements)
    sent, received = ranks + rank * world, torch.zeros_like(ranks)
    if spoil == rank:
        sent[::elements] ^= 1 << 20
    each = time_rounds(
        lambda: _all_to_all(received, sent),
        prepare=lambda: _clear(received),
        seconds=seconds,
        device=place,
    )
    differing = (received != ranks * world + rank).reshape(world, elements).any(dim=1)
    wrong = [int(sender) for sender in differing.nonzero().flatten()]
    dist.destroy_process_group()
    return {"rate": (world - 1) * elements * 4 / each, "wrong": wrong}


def _all_to_all(received: Any, sent: Any) -> None:  # noqa: ANN401 - tensors
    import torch.distributed as dist

    dist.all_to_all_single(received, sent)


def _clear(received: Any) -> None:  # noqa: ANN401 - a tensor
    received.zero_()


def _prefer_loopback() -> None:
    """All ranks are here: gloo need not ask what the host's name resolves to."""
    import os

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")


if __name__ == "__main__":
    main()
