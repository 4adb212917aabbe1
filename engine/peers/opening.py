"""How the ranks of a group come to have memory in common."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from collectors.clock import process_space
from collectors.errors import RunFailed, StorageError
from engine.peers.machine import unusable_here
from engine.peers.memory import ALIGNMENT
from engine.peers.shared import Segment, SharedMemory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.peers.memory import PeerMemory

_MESSAGE = 512  # bytes that each rank tells the others


class NotShared(RunFailed):
    """The ranks of a group cannot have memory in common; says why."""


def open_shared(
    process_group: dist.ProcessGroup, *, nbytes: int, ranks: Sequence[int], timeout_s: float
) -> PeerMemory:
    """Memory of CPU ranks of one host; every rank of the group calls this, with the same numbers.

    All of them get it, or none.

    Args:
        nbytes: of each rank's buffer; rounded up.
        ranks: their global ranks, for errors.

    Raises:
        NotShared: they are not on one host, or the host does not let them.
    """
    nbytes = -(-nbytes // ALIGNMENT) * ALIGNMENT
    mine, told = _offer(nbytes)
    segments: list[Segment] = []
    try:
        offers = exchange(told, process_group)
        rank = dist.get_rank(process_group)
        trouble = _trouble(offers) or _map(offers, rank, mine, nbytes, segments)
        troubles = [str(each["why"]) for each in exchange({"why": trouble}, process_group)]
        if any(troubles):
            raise NotShared(
                next(filter(None, troubles)),
                where=f"ranks {', '.join(map(str, ranks))}",
                remedy="set parallel.transport to collective",
            )
        return SharedMemory(
            segments,
            rank=rank,
            nbytes=nbytes,
            pids=[int(offer["pid"]) for offer in offers],
            ranks=ranks,
            timeout_s=timeout_s,
        )
    finally:  # what is mapped stays
        for segment in (mine, *segments):
            if segment is not None:
                segment.release()


def _offer(nbytes: int) -> tuple[Segment | None, dict[str, Any]]:
    """A segment for the others, and what they must know to map it; why there is none."""
    why, mine = unusable_here(), None
    if not why:
        try:
            mine = Segment.make(nbytes)
        except StorageError as error:
            why = error.what
    told = {"pid": os.getpid(), "space": process_space(), "why": why}
    return mine, told | {"descriptor": mine.descriptor if mine else -1}


def _trouble(offers: Sequence[dict[str, Any]]) -> str:
    for offer in offers:
        if offer["why"]:
            return str(offer["why"])
    if len({offer["space"] for offer in offers}) > 1:
        return "ranks on several hosts, or in several containers"
    return ""


def _map(
    offers: Sequence[dict[str, Any]],
    rank: int,
    mine: Segment | None,
    nbytes: int,
    segments: list[Segment],
) -> str:
    """Map what the others offer; gives what hindered it."""
    for peer, offer in enumerate(offers):
        if peer == rank:
            assert mine is not None
            segments.append(mine)
            continue
        try:
            segments.append(Segment.of_peer(offer["pid"], offer["descriptor"], nbytes))
        except OSError as error:
            return f"the memory of process {offer['pid']} cannot be seen: {error.strerror or error}"
    return ""


def tell_all(text: str, process_group: dist.ProcessGroup, device: torch.device) -> str:
    """What rank 0 of the group says; all ranks call this, and get it."""
    data = text.encode()
    size = torch.tensor([len(data)], device=device)
    dist.broadcast(size, group_src=0, group=process_group)
    sent = torch.empty(int(size), dtype=torch.uint8, device=device)
    if dist.get_rank(process_group) == 0:
        sent.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    dist.broadcast(sent, group_src=0, group=process_group)
    return bytes(sent.tolist()).decode()


def peer_processes(process_group: dist.ProcessGroup, device: torch.device) -> dict[int, int]:
    """Process ids of the other ranks, by their place, as far as they mean something here."""
    mine = {"pid": os.getpid(), "space": process_space()}
    told = exchange(mine, process_group, device)
    return {
        place: int(other["pid"])
        for place, other in enumerate(told)
        if other["space"] == mine["space"] and place != dist.get_rank(process_group)
    }


def exchange(
    message: dict[str, Any], process_group: dist.ProcessGroup, device: torch.device | None = None
) -> list[dict[str, Any]]:
    """What each rank tells; as JSON, for nothing from outside is ever unpickled."""
    text = json.dumps(message).encode()[:_MESSAGE].ljust(_MESSAGE)
    sent = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(device)
    parts = [torch.empty_like(sent) for _ in range(dist.get_world_size(process_group))]
    dist.all_gather(parts, sent, group=process_group)
    return [json.loads(bytes(part.tolist())) for part in parts]
