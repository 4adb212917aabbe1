"""The benchmark of elastic instances, at a size that measures nothing: processes, steps, rows."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs the engine extra")

from engine.peers.machine import unusable_here
from opsuite.bench import esp


@pytest.mark.slow
def test_rows_of_tiny_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    if why := unusable_here():
        pytest.skip(f"instances have memory in common: {why}")
    monkeypatch.setattr(esp, "_PROMPTS", (48,))
    monkeypatch.setattr(esp, "_CONTEXT", 96)
    rows = esp.measure(2)
    down, up = (row for row in rows if row.unit == "bytes")
    # Each of 48 tokens' keys and values passes once: 4 layers, 8 key heads, 32 wide, float32.
    assert (down.value, down.met, down.note) == (0, True, f"of {48 * 4 * 2 * 8 * 32 * 4:,}")
    assert (up.value, up.met) == (0, True)
    prefill, scaled_down, decode = (row for row in rows if row.unit != "bytes")
    assert prefill.ratio and scaled_down.ratio and decode.ratio
    assert decode.name.endswith("DoP 2 over DoP 1")
