"""What happens to a job that recovers, told while it is launched here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from collectors.errors import OpsuiteError
from opsuite.follower import Follower
from opsuite.output import narrate

if TYPE_CHECKING:
    from pathlib import Path

_PERIOD_S = 1.0


def told(item: dict[str, Any]) -> str:
    """One item of a driver's news in a line; "" where people need not be told. Pure."""
    name, facts = item["name"], item["facts"]
    if name == "incident":
        then = "starting again" if facts["recover"] else "going on"
        return f"{facts['cause']}{_whom(facts)} at step {facts['step']}: {facts['detail']}; {then}"
    if name == "attempt" and facts["resume"] != "nothing":
        hosts = ", ".join(facts["hosts"])
        return f"going on after step {facts['step']}, from {facts['resume']}, on {hosts}"
    if name == "host.blocked":
        return f"{facts['host']} is left out: {facts['why']}"
    if name == "host.checked" and facts["sound"] is not True:
        return f"{facts['host']} was examined: {facts['detail'] or 'it could not be told'}"
    if name == "phase" and facts["phase"] == "paused":
        return "paused: its state is in memory"
    return ""


def _whom(facts: dict[str, Any]) -> str:
    names = [*(f"rank {rank}" for rank in facts["ranks"]), *facts["hosts"]]
    return f" ({', '.join(names)})" if names else ""


class JobNews(Follower):
    """Tells what a job's driver has noted."""

    def __init__(self, run: Path, *, wanted: bool) -> None:
        super().__init__("news", _PERIOD_S, wanted=wanted)
        self._run = run
        self._last = 0

    def goes_on(self) -> bool:
        from engine.supervision.control import read_news

        try:
            items = read_news(self._run, self._last)
        except OpsuiteError:
            return True  # its driver is elsewhere, or is being started again: that is told apart
        for item in items:
            self._last = item["number"]
            if line := told(item):
                narrate(line)
        return True
