"""The engine that is simulated; by default that of FastServe's evaluation (arXiv 2305.05920)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.scheduling.limits import Limits, MakeRoom

if TYPE_CHECKING:
    from engine.simulation.serve.costs import ServingCosts

KV_TOKENS = 14_000  # of OPT-13B on an A100 with 40 GB
KV_BYTES_PER_TOKEN = 819_200  # of OPT-13B in half precision
SWAP_BYTES = 128 * 10**9
LINK_BYTES_PER_S = 25e9
MAX_BATCH = 16
DRAIN = 0.1
RESERVED_TOKENS = 2048  # OPT's longest sequence
CHUNK_TOKENS = 512
_BLOCK_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class SetUp:
    """Attributes:
    max_batch: sequences in an iteration.
    kv_tokens: whose keys and values fit into the device's memory.
    swap_bytes: of the host's memory, for keys and values.
    link_bytes_per_s: between device and host, each way.
    make_room: what is done with preempted jobs' keys and values; None: what each policy is
        meant to have.
    prefill_tokens: of all prompts in one iteration; None: prompts are computed whole.
    drain: the simulation ends at the latest when so large a part of the span of arrivals has
        passed after the last one; None: when all requests are done.
    """

    costs: ServingCosts
    max_batch: int = MAX_BATCH
    kv_tokens: int = KV_TOKENS
    kv_bytes_per_token: int = KV_BYTES_PER_TOKEN
    swap_bytes: int = SWAP_BYTES
    link_bytes_per_s: float = LINK_BYTES_PER_S
    make_room: MakeRoom | None = None
    prefill_tokens: int | None = None
    drain: float | None = DRAIN

    def limits(self, make_room: MakeRoom) -> Limits:
        """As a scheduler takes them."""
        swap_blocks = self.swap_bytes // (self.kv_bytes_per_token * _BLOCK_TOKENS)
        return Limits(
            max_batch=self.max_batch,
            blocks=self.kv_tokens // _BLOCK_TOKENS,
            block_tokens=_BLOCK_TOKENS,
            host_blocks=0 if make_room is MakeRoom.RECOMPUTE else swap_blocks,
            prefill_tokens=self.prefill_tokens,
            make_room=make_room,
        )
