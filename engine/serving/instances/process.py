"""An instance's process, or one rank's of it: told a step, computes it with others, tells of it.

Started by the fleet's process with its end of a socket pair as standard input; it ends when the
other end is gone.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from collectors.errors import DataError, StorageError, UsageError
from engine.devices import pick_device
from engine.peers.machine import unusable_here
from engine.serving.channel import Channel
from engine.serving.config import ServingConfig
from engine.serving.instances.enrolment import (
    TO_INSTANCE,
    Compute,
    Computed,
    Enter,
    Peer,
    ToInstance,
    Up,
)
from engine.serving.instances.instance import Instance
from engine.serving.instances.pool import PoolShape
from engine.serving.instances.shared_exchange import SharedExchange
from engine.serving.wire import Refusal
from engine.serving.worker.process import outlast_signals
from engine.serving.worker.rank import open_rank

if TYPE_CHECKING:
    from engine.serving.worker.rank import Rank


def main() -> None:
    """Until the fleet's process is gone, or the model cannot be served."""
    outlast_signals()
    channel = Channel(socket.socket(fileno=os.dup(0)), TO_INSTANCE)
    with contextlib.suppress(EOFError, ConnectionError):
        try:
            _serve(channel)
        except (UsageError, DataError) as error:
            channel.send(Refusal.of(error))


def _serve(channel: Channel[ToInstance]) -> NoReturn:
    enter = channel.receive_one()
    assert isinstance(enter, Enter), "the first message"
    config = ServingConfig.model_validate_json(enter.start.config)
    _check_can_exchange(config, enter.rank)
    meeting = Path(enter.meeting) if enter.meeting else None
    rank = open_rank(enter.start, rank=enter.rank, meeting=meeting)
    exchange = _exchange(enter, rank)
    instance = Instance(rank.model, exchange.pool, exchange)
    channel.send(
        Up(
            slots=exchange.pool.slots,
            kv_bytes_per_token=exchange.pool.shape.token_bytes * config.tp,
            weight_bytes=sum(
                each.numel() * each.element_size() for each in rank.model.parameters()
            ),
            pid=exchange.pid,
            descriptor=exchange.descriptor,
            nbytes=exchange.nbytes,
        )
    )
    while True:
        told = channel.receive_one()
        if isinstance(told, Peer):
            exchange.set_peer(told.instance, told.pid, told.descriptor, told.nbytes)
            continue
        assert isinstance(told, Compute), "nothing else is left to say"
        channel.send(Computed(instance.execute(told.step)))


def _check_can_exchange(config: ServingConfig, rank: int) -> None:
    """UsageError: not with others on this machine."""
    if why := unusable_here():
        raise UsageError(f"instances cannot have memory in common: {why}", where="this machine")
    device = pick_device(config.device, local_rank=rank, ranks=config.ranks)
    if device.type != "cpu":
        raise UsageError(
            "instances exchange keys and values on the CPU only",
            where=str(device),
            remedy="give --device cpu, or serve one instance by another --policy",
        )


def _exchange(enter: Enter, rank: Rank) -> SharedExchange:
    """UsageError: there is no memory for it."""
    limits = rank.limits() if enter.slots is None else None
    slots = enter.slots if limits is None else limits.blocks * limits.block_tokens
    assert slots is not None, "as told, or as the memory allows"
    shape = PoolShape.of(rank.model.config, rank.dtype, rank.config.tp)
    try:
        return SharedExchange(enter.instance, shape, slots)
    except StorageError:
        raise UsageError(
            f"no memory for the keys and values of {slots:,} tokens of an instance",
            where=str(rank.device),
            remedy="give a smaller --kv-tokens, or fewer --instances",
        ) from None


if __name__ == "__main__":
    main()
