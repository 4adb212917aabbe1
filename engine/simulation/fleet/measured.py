"""What LoongServe's authors measured: a 7B model on eight A800 GPUs, split in several ways.

Wu et al., "LoongServe: Efficiently Serving Long-Context Large Language Models with Elastic Sequence
Parallelism", SOSP 2024 (arXiv 2404.09526), the figure on the scalability of sequence parallelism
and its text: Llama-2-7B's shape (32 layers, 32 heads, hidden size 4096, half precision) with a
context of a million tokens, A800 GPUs of 80 GB joined by NVLink of 400 GB/s (both ways together).
"""

from __future__ import annotations

from dataclasses import dataclass

KV_BYTES_PER_TOKEN = 2 * 32 * 4096 * 2  # keys and values, layers, hidden size, half precision
NVLINK_BYTES_PER_S = 200e9  # of one GPU, each way


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measured batch.

    Attributes:
        sp: instances that share each sequence (the degree of parallelism).
        tp: GPUs of each instance.
        batch: sequences, each of ``length`` tokens.
        prefill_s, decode_s: of all of them in one iteration.
    """

    sp: int
    tp: int
    batch: int
    length: int
    prefill_s: float
    decode_s: float

    @property
    def name(self) -> str:
        """As the paper has it, and the batch."""
        return f"{split_name(self.sp, self.tp)}, {self.batch} x {self.length:,} tokens"


def split_name(sp: int, tp: int) -> str:
    """As the paper has it, such as SP4TP2."""
    return f"SP{sp}TP{tp}"


_BATCHES = ((512, 1_000), (128, 5_000), (64, 10_000), (16, 50_000), (4, 100_000), (1, 500_000))
# (sp, tp) -> milliseconds of a prefill, and of a decode, for each of these batches
_MS = {
    (1, 8): (
        (7757, 38.9), (10157, 37.8), (10792, 36.4), (19506, 42.9), (13546, 26.4), (51135, 37.6),
    ),
    (2, 4): (
        (5776, 42.5), (7694, 40.3), (8306, 38.1), (16595, 44.9), (12147, 28.0), (51700, 41.6),
    ),
    (4, 2): (
        (5267, 42.3), (7072, 41.4), (7701, 40.1), (15744, 45.9), (11798, 28.9), (53606, 37.8),
    ),
}  # fmt: skip
_ONE_GPU = Cell(sp=1, tp=1, batch=1, length=1_000, prefill_s=68.9e-3, decode_s=13.0e-3)

CELLS: tuple[Cell, ...] = (
    *(
        Cell(
            sp=sp,
            tp=tp,
            batch=batch,
            length=length,
            prefill_s=prefill_ms / 1e3,
            decode_s=decode_ms / 1e3,
        )
        for (sp, tp), measured in _MS.items()
        for (batch, length), (prefill_ms, decode_ms) in zip(_BATCHES, measured, strict=True)
    ),
    _ONE_GPU,
)
"""All on eight GPUs but the last, which is on one."""
