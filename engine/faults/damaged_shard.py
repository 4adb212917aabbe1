"""Checkpoints that were whole, and are no more."""

from __future__ import annotations

import os
import random
from abc import ABC
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.faults.keys import key, whole_number
from engine.faults.outside import OutsideFault
from engine.faults.saves import newest_shards

if TYPE_CHECKING:
    from pathlib import Path

    from engine.faults.scene import Scene

_LENGTH_BYTES = 8  # safetensors: the header's length, then the header, then the tensors


@dataclass(frozen=True, kw_only=True)
class _DamagedShard(OutsideFault, ABC):
    seed: int = key("what chooses the shard", whole_number, default=0)

    @property
    def chance(self) -> random.Random:
        """The same whenever it is asked for."""
        return random.Random(self.seed)  # noqa: S311 - no secret

    def is_ready(self, scene: Scene) -> bool:
        return bool(newest_shards(scene.checkpoints()))

    def shard(self, scene: Scene, chance: random.Random) -> Path:
        """The one that is struck."""
        shards = newest_shards(scene.checkpoints())
        if not shards:
            raise FileNotFoundError("no checkpoint has been published")
        return chance.choice(shards)


@dataclass(frozen=True, kw_only=True)
class CorruptShard(_DamagedShard):
    """One byte of one shard of the newest checkpoint is another."""

    name: ClassVar[str] = "corrupt-shard"

    def strike(self, scene: Scene) -> None:
        chance = self.chance
        with self.shard(scene, chance).open("r+b") as file:
            begin = _LENGTH_BYTES + int.from_bytes(file.read(_LENGTH_BYTES), "little")
            end = os.fstat(file.fileno()).st_size
            at = chance.randrange(begin, end) if begin < end else end - 1
            file.seek(at)
            [byte] = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ (1 << chance.randrange(8))]))


@dataclass(frozen=True, kw_only=True)
class TruncatedShard(_DamagedShard):
    """One shard of the newest checkpoint has lost its second half."""

    name: ClassVar[str] = "truncated-shard"

    def strike(self, scene: Scene) -> None:
        shard = self.shard(scene, self.chance)
        os.truncate(shard, shard.stat().st_size // 2)
