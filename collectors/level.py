"""How readily a record is taken: declared once for each name, by whoever records it."""

from __future__ import annotations

from enum import IntEnum


class Level(IntEnum):
    """What a record is worth where not everything can be kept.

    ``OPSUITE_LEVEL`` names the highest level that is recorded at all. As a spool fills, SAMPLED is
    given up first, then TRIGGER, and ALWAYS last.
    """

    ALWAYS = 0
    """Steps, phases, collectives, requests: what every diagnosis needs."""
    SAMPLED = 1
    """Kernels, iterations: many, and each worth little."""
    TRIGGER = 2
    """Dumps of rings, stacks: few and large, made when something has happened."""


_DECLARED: dict[str, Level] = {}


def declare(level: Level, *names: str) -> None:
    """Say at which level ``names`` are recorded; a name that nobody declares is of ALWAYS.

    ``"kernel."`` stands for all names whose part before the first dot is "kernel". Declare where
    the name is defined, at import: recorders look a level up once for each name and segment.
    """
    for name in names:
        _DECLARED[name] = level


def level_of(name: str) -> Level:
    """The level at which ``name`` is recorded."""
    family = name.partition(".")[0] + "."
    return _DECLARED.get(name, _DECLARED.get(family, Level.ALWAYS))
