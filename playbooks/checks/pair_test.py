"""The pair test: an all-reduce between two hosts, gloo on CPUs and NCCL on GPUs.

One end listens, the other connects; both prove the key (:mod:`playbooks.checks.handshake`). Only
then the two processes meet in a store that is opened for them alone, at the address over which they
have met. The ports of the store and of gloo or NCCL are open for the seconds of the test and ask
for no key: a stranger who hits on them can spoil the test, and no more, since only numbers travel.
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from collectors.errors import OpsuiteError, TimedOut
from collectors.settings import Settings
from playbooks.checks.check import Measurement, Verdict
from playbooks.checks.child import answer, depend_on_parent
from playbooks.checks.meeting import Meeting, connect, is_loopback, listen, split_address
from playbooks.checks.timed_rounds import time_rounds

if TYPE_CHECKING:
    import torch

NAME = "pair"
_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}


def measure_pair(meeting: Meeting, *, limit_s: float, spoil: bool = False) -> Measurement:
    """All-reduce between the two, and what it carried: bytes a second each way.

    With ``spoil``, for drills, this end sends one wrong number.

    Raises:
        TimedOut: the other end stopped answering.
    """
    import torch
    import torch.distributed as dist

    device = torch.device(meeting.offer.device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    interface = _interface(meeting.own_address)
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    limit = timedelta(seconds=limit_s)
    try:
        dist.init_process_group(
            backend, store=_store(meeting, limit), rank=meeting.rank, world_size=2, timeout=limit
        )
        each, wrong = _all_reduce(meeting, device, spoil=spoil)
        dist.destroy_process_group()
    except RuntimeError as error:
        raise TimedOut(
            f"the all-reduce did not finish: {str(error).splitlines()[0]}",
            where=" - ".join(meeting.hosts),
            remedy="check both hosts and what is between them: ports, firewall, link",
        ) from error
    here = "loopback" if is_loopback(meeting.address) else "network"
    return Measurement(
        check=NAME,
        subject=" - ".join(meeting.hosts),
        metric=f"{backend} {here}",
        value=_BYTES[device.type] / each / 1e9,
        unit="GB/s",
        fault=Verdict.CORRUPT if wrong else None,
        detail=f"{wrong} sums are wrong" if wrong else "",
    )


def _store(meeting: Meeting, limit: timedelta) -> Any:  # noqa: ANN401 - a torch store
    from torch._C._distributed_c10d import TCPStore

    listening = meeting.listening
    if listening is not None:
        listening.listen()
    return TCPStore(
        meeting.address,
        meeting.offer.store_port,
        world_size=2,
        is_master=listening is not None,
        timeout=limit,
        # The store would listen on every interface; this one it shall listen on.
        master_listen_fd=None if listening is None else listening.detach(),
    )


def _all_reduce(meeting: Meeting, device: torch.device, *, spoil: bool) -> tuple[float, int]:
    """Seconds of one, and how many sums of the last one were wrong."""
    import torch
    import torch.distributed as dist

    whole = torch.arange(_BYTES[device.type] // 4, device=device) % 1024
    own, both = (whole + meeting.rank).float(), (2 * whole + 1).float()
    own[0] += spoil
    sums = torch.empty_like(own)
    each = time_rounds(
        lambda: _reduce(sums),
        prepare=lambda: _start_from(sums, own),
        seconds=meeting.offer.seconds,
        device=device,
    )
    wrong = torch.tensor([int((sums != both).sum())], device=device)
    dist.all_reduce(wrong, op=dist.ReduceOp.MAX)  # both ends say the same
    return each, int(wrong.item())


def _reduce(sums: torch.Tensor) -> None:
    import torch.distributed as dist

    dist.all_reduce(sums)


def _start_from(sums: torch.Tensor, own: torch.Tensor) -> None:
    sums.copy_(own)


def _interface(address: str) -> str:
    """The network interface that has an address; "" where none is found."""
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(known.address.partition("%")[0] == address for known in addresses):
            return name
    return ""


# -- as a process of its own ---------------------------------------------------------------------


def main() -> int:
    """One end of a pair test, as the arguments say; prints the measurement, or the error."""
    depend_on_parent()
    parser = argparse.ArgumentParser(prog="playbooks.checks.pair_test")
    ends = parser.add_mutually_exclusive_group(required=True)
    ends.add_argument("--listen", metavar="HOST:PORT")
    ends.add_argument("--peer", metavar="HOST:PORT")
    parser.add_argument("--seconds", type=float, default=2.0, help="of measuring; --listen decides")
    parser.add_argument("--limit-s", type=float, default=60.0, help="for each part of the test")
    parser.add_argument("--device", choices=list(_BYTES), default="cpu", help="--listen decides")
    parser.add_argument("--spoil", action="store_true", help="drill: this end sends a wrong number")
    given = parser.parse_args()
    try:
        answer(_run(given).to_json())
    except OpsuiteError as error:
        answer({"what": error.what, "where": error.where, "remedy": error.remedy})
        return error.exit_code
    return 0


def _run(given: argparse.Namespace) -> Measurement:
    key = Settings.from_environment().api_key or ""
    host, port = split_address(given.listen or given.peer)
    if given.peer:
        meeting = connect(host, port, key=key, limit_s=given.limit_s)
    else:
        meeting = listen(
            host,
            port,
            key=key,
            device=given.device,
            seconds=given.seconds,
            limit_s=given.limit_s,
        )
    return measure_pair(meeting, limit_s=given.limit_s, spoil=given.spoil)


if __name__ == "__main__":
    sys.exit(main())
