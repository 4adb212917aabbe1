"""When a device's clocks are held down, by what, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

# Bits of nvmlDeviceGetCurrentClocksEventReasons. Idle (0x1), clocks that somebody set (0x2) and
# the display's clock (0x100) hold nobody up.
REASONS = {
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "hw_power_brake",
    0x200: "board_limit",
    0x400: "reliability",
}


@dataclass(frozen=True, slots=True)
class Throttling:
    """A reason that began or ended; ``duration_s`` is known at its end."""

    reason: str
    state: str
    duration_s: float | None = None


class ThrottleEpisodes:
    """Makes episodes of readings: one that pauses for less than ``quiet_s`` goes on.

    A device at its power cap goes in and out of it many times a minute, and that is one episode.
    Durations are between readings, so one within a single reading lasted for 0 seconds.
    """

    def __init__(self, quiet_s: float = 5.0) -> None:
        self._quiet_s = quiet_s
        self._began: dict[str, float] = {}
        self._seen: dict[str, float] = {}

    def take(self, bits: int, now_s: float) -> list[Throttling]:
        """What began and what ended by a reading of the reasons' bits."""
        found = []
        for bit, reason in REASONS.items():
            if bits & bit:
                if reason not in self._began:
                    self._began[reason] = now_s
                    found.append(Throttling(reason, "began"))
                self._seen[reason] = now_s
            elif reason in self._began and now_s - self._seen[reason] >= self._quiet_s:
                duration_s = self._seen.pop(reason) - self._began.pop(reason)
                found.append(Throttling(reason, "ended", duration_s))
        return found
