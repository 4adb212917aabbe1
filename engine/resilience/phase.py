"""What a driver is about."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """What a driver is about."""

    ADOPTING = "adopting"
    """It is new, and executors that run ranks already are to find it."""
    GATHERING = "gathering"
    """There are too few hosts, or some are being examined."""
    STARTING = "starting"
    """Ranks were ordered, and have not begun their first step."""
    RUNNING = "running"
    STOPPING = "stopping"
    PAUSED = "paused"
    OVER = "over"


WITH_RANKS = (Phase.STARTING, Phase.RUNNING, Phase.ADOPTING)
