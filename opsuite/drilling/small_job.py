"""The job that is drilled unless another is given: two hosts with two ranks each, on CPU."""

from __future__ import annotations

from typing import Any

SMALL_JOB: dict[str, Any] = {
    "name": "drill",
    "model": {
        "vocab_size": 512,
        "hidden_size": 64,
        "n_layers": 4,
        "n_heads": 4,
        "n_kv_heads": 4,
        "intermediate_size": 128,
        "max_seq_len": 64,
    },
    "data": {"seq_len": 64, "max_bytes": 1_000_000},
    "train": {"steps": 120, "batch_size": 8},
    "parallel": {"tp": 2, "dp": 2, "device": "cpu"},
    "checkpoint": {"every": 40, "keep": 3},
    "resilience": {"recover": True, "hosts": 2, "snapshot_every": 5},
}
