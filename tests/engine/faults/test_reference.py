"""docs/faults.md says what there is."""

from __future__ import annotations

from pathlib import Path

from engine.faults.reference import up_to_date
from engine.faults.registry import FAULTS


def test_the_tables_are_up_to_date() -> None:
    text = (Path(__file__).parents[3] / "docs" / "faults.md").read_text(encoding="utf-8")
    assert text == up_to_date(text), "run: python -m engine.faults.reference docs/faults.md"
    assert all(f"`{name}:" in text for name in FAULTS)
