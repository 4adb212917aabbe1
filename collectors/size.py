"""Sizes as people write and read them: ``50GB``, ``1.5 MB``; decimal, as disks are sold."""

from __future__ import annotations

import re

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BINARY = {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([A-Za-z]*)")


def parse_size(text: str) -> int:
    """Bytes of "50GB", "1.5 MiB" or "4096"; ValueError where it is none."""
    found = _SIZE.fullmatch(text.strip())
    unit = found[2].upper() or "B" if found else ""
    factor = (_UNITS | _BINARY).get(unit)
    if found is None or factor is None:
        raise ValueError(f"{text!r} is no size: write it like 50GB or 200MB")
    return int(float(found[1]) * factor)


def format_size(size: int) -> str:
    """Bytes in three significant digits: "51.2 GB"."""
    amount, units = float(size), iter(_UNITS)
    unit = next(units)
    while amount >= 999.5 and unit != "TB":
        amount, unit = amount / 1000, next(units)
    return (
        f"{size} B"
        if unit == "B"
        else f"{amount:.3g} {unit}"
        if amount < 999.5
        else (f"{amount:.0f} {unit}")
    )
