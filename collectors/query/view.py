"""What a view is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class View:
    """A view: its name, one line about it, and the SELECT behind it."""

    name: str
    about: str
    select: str
