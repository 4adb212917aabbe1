"""How an instance's processes come to know the model, the manager and each other."""

from __future__ import annotations

import msgspec

from engine.serving.instances.step import Done, Step
from engine.serving.wire import Refusal, Start


class Enter(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """The first message to a process.

    Attributes:
        rank: of the instance's tensor-parallel group.
        meeting: the file by which these find each other; "" where it is alone.
        slots: of the pool; None: as the memory allows.
    """

    start: Start
    instance: int
    rank: int = 0
    meeting: str = ""
    slots: int | None = None


class Up(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """It has loaded its part of the model; the segment that others may map.

    Attributes:
        slots: of its pool.
        kv_bytes_per_token: on all ranks of the instance.
        weight_bytes: of this rank.
    """

    slots: int
    kv_bytes_per_token: int
    weight_bytes: int
    pid: int
    descriptor: int
    nbytes: int


class Peer(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Where the like of this rank in another instance has its segment: of a new process, too."""

    instance: int
    pid: int
    descriptor: int
    nbytes: int


class Compute(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A step, after all that were told before."""

    step: Step


class Computed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """What came of it."""

    done: Done


ToInstance = Enter | Peer | Compute
FromInstance = Up | Computed | Refusal
TO_INSTANCE: msgspec.msgpack.Decoder[ToInstance] = msgspec.msgpack.Decoder(ToInstance)
FROM_INSTANCE: msgspec.msgpack.Decoder[FromInstance] = msgspec.msgpack.Decoder(FromInstance)
