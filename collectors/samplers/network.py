"""Network interfaces, and what TCP had to send again.

Samples, once a second, of the interfaces that carried anything (the 16 that carried most; not
the ends of containers' links): ``net.<interface>.rx_bytes_per_s``,
``net.<interface>.tx_bytes_per_s``, ``net.<interface>.errors_per_s``,
``net.<interface>.drops_per_s``; and ``host.tcp_retransmits_per_s``. Event ``net.errors``: how many
of each kind ``interface`` had since it was told last.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from collectors.level import Level, declare
from collectors.samplers.counters import Counters
from collectors.samplers.sampler import Absent, Happening, Reading
from collectors.samplers.source import parsed
from collectors.samplers.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

declare(Level.SAMPLED, "net.", "host.")
declare(Level.ALWAYS, "net.errors")

_MOST = 16
_COLUMNS = {
    "rx_bytes": 0,
    "rx_errors": 2,
    "rx_drops": 3,
    "rx_overruns": 4,
    "rx_frame_errors": 5,
    "tx_bytes": 8,
    "tx_errors": 10,
    "tx_drops": 11,
    "tx_overruns": 12,
    "tx_carrier_errors": 14,
}
_ERRORS = [
    *("rx_errors", "rx_overruns", "rx_frame_errors"),
    *("tx_errors", "tx_overruns", "tx_carrier_errors"),
]
_RATES = {
    "rx_bytes_per_s": ("rx_bytes",),
    "tx_bytes_per_s": ("tx_bytes",),
    "errors_per_s": ("rx_errors", "tx_errors"),  # the kernel counts the other kinds in these
    "drops_per_s": ("rx_drops", "tx_drops"),
}


class _Interface:
    """What is kept of an interface between two readings."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.errors = Tally()


class NetworkSampler:
    """``/proc/net/dev``."""

    name = "network"
    period_s = 1.0

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = root / "proc/net/dev"
        self._clock = clock
        self._interfaces: dict[str, _Interface] = {}

    def read(self) -> Sequence[Reading | Happening]:
        """What each interface carried since the last reading.

        Raises:
            Absent: nothing is connected, or it may not be looked at.
            DataError, OSError: it cannot be read.
        """
        seen = _chosen(parsed(self._path, _read_interfaces))
        now_s = self._clock()
        if not seen:
            raise Absent(f"no interface in {self._path} has carried anything")
        self._interfaces = {name: self._interfaces.get(name) or _Interface() for name in seen}
        found: list[Reading | Happening] = []
        for name, counts in seen.items():
            found += _rates(name, self._interfaces[name].counters, counts, now_s)
            found += _errors(name, self._interfaces[name], counts, now_s)
        return found

    def close(self) -> None:
        """Nothing is held."""


def _read_interfaces(text: str) -> dict[str, dict[str, int]]:
    """Counts by interface and kind; two lines of headings come first."""
    interfaces = {}
    for line in text.splitlines()[2:]:
        name, found, rest = line.partition(":")
        if not found:
            raise ValueError("a line of no interface")
        fields = rest.split()
        interfaces[name.strip()] = {kind: int(fields[at]) for kind, at in _COLUMNS.items()}
    return interfaces


def _chosen(interfaces: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    carried = {
        name: counts["rx_bytes"] + counts["tx_bytes"]
        for name, counts in interfaces.items()
        if not name.startswith("veth")
    }
    most = sorted((name for name in carried if carried[name]), key=lambda name: -carried[name])
    return {name: interfaces[name] for name in sorted(most[:_MOST])}


def _rates(
    interface: str, counters: Counters, counts: Mapping[str, int], now_s: float
) -> list[Reading]:
    found = []
    for rate, kinds in _RATES.items():
        per_s = counters.per_s(rate, sum(counts[kind] for kind in kinds), now_s)
        if per_s is not None:
            found.append(Reading(f"net.{interface}.{rate}", per_s))
    return found


def _errors(
    name: str, interface: _Interface, counts: Mapping[str, int], now_s: float
) -> list[Happening]:
    came = {kind: interface.counters.added(kind, counts[kind]) for kind in _ERRORS}
    told = interface.errors.add(came, now_s)
    if not told:
        return []
    count = told.get("rx_errors", 0) + told.get("tx_errors", 0) or sum(told.values())
    kinds = {kind: int(number) for kind, number in told.items()}
    attributes = {"interface": name, "count": int(count), **kinds}
    return [Happening("net.errors", attributes, count)]


class TcpSampler:
    """``/proc/net/snmp``."""

    name = "tcp"
    period_s = 1.0

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = root / "proc/net/snmp"
        self._clock = clock
        self._counters = Counters()

    def read(self) -> Sequence[Reading]:
        """How many segments were sent again, a second.

        Raises:
            Absent: there is no TCP here, or it may not be looked at.
            DataError, OSError: it cannot be read.
        """
        again = parsed(self._path, _read_retransmitted)
        per_s = self._counters.per_s("retransmitted", again, self._clock())
        return [] if per_s is None else [Reading("host.tcp_retransmits_per_s", per_s)]

    def close(self) -> None:
        """Nothing is held."""


def _read_retransmitted(text: str) -> int:
    """A line of names is followed by one of values."""
    names, values = [line.split() for line in text.splitlines() if line.startswith("Tcp:")]
    return int(dict(zip(names, values, strict=True))["RetransSegs"])
