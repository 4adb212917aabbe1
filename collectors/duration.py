"""Stretches of time as people write them: ``30s``, ``1.5m``, ``200ms``."""

from __future__ import annotations

import re

_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([a-z]*)")


def parse_duration(text: str) -> float:
    """Seconds of "30s", "200ms", "1.5h" or "30"; ValueError where it is none."""
    found = _DURATION.fullmatch(text.strip().lower())
    factor = _UNITS.get(found[2] or "s") if found else None
    if found is None or factor is None:
        raise ValueError(f"{text!r} is no time: write it like 30s, 5m or 200ms")
    return float(found[1]) * factor
