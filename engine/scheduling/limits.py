"""What one engine can hold, and how it makes room."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class MakeRoom(StrEnum):
    """What happens to the keys and values of preempted jobs when others need their blocks."""

    RECOMPUTE = "recompute"
    """They are dropped, and computed again."""
    REACTIVE = "reactive"
    """They are moved to the host when room is needed; the iteration waits for that."""
    PROACTIVE = "proactive"
    """They are moved ahead of need, beside the work (FastServe, section 4.3)."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of one engine.

    Attributes:
        max_batch: jobs in an iteration.
        blocks: of the device, each of ``block_tokens`` tokens' keys and values.
        host_blocks: of the host's memory, for what is swapped out.
        prefill_tokens: of all prefills in one iteration; None: prompts are computed whole.
        make_room: how.
        idle_blocks: kept free by proactive swapping, for bursts of arrivals.
        reserve_tokens: each job takes blocks for so many when it begins, if it has fewer: Orca
            reserves the longest request. 0: blocks are taken as they are needed.
        whole_batches: a job joins only when none runs, as in FasterTransformer.
    """

    max_batch: int
    blocks: int
    block_tokens: int = 16
    host_blocks: int = 0
    prefill_tokens: int | None = None
    make_room: MakeRoom = MakeRoom.RECOMPUTE
    idle_blocks: int = 0
    reserve_tokens: int = 0
    whole_batches: bool = False

    @property
    def watermark(self) -> int:
        """Blocks that stay free when a job begins or comes back, so that it does not drive out
        those that run, or is driven out, at the next tokens."""
        return 1 + self.blocks // 100

    def blocks_of(self, tokens: int) -> int:
        """How many blocks hold so many tokens."""
        return -(-tokens // self.block_tokens)

    def fits(self, tokens: int) -> bool:
        """Whether a job of so many tokens in all can run alone."""
        return self.blocks_of(max(tokens, self.reserve_tokens)) <= self.blocks
