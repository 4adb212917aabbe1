"""InfiniBand and RoCE ports, as ``/sys/class/infiniband`` counts them.

Samples ``ib.<device>/<port>.<metric>``, once a second: ``rx_bytes_per_s``, ``tx_bytes_per_s``,
``rate_gbps``, ``active`` (0 or 1), and of congestion, where the device counts it:
``xmit_wait_per_s`` (ticks in which data waited for credits), ``cnp_sent_per_s``,
``cnp_handled_per_s``, ``ecn_marked_per_s``.

Events, each with ``device`` and ``port``: ``ib.error`` (how often each ``counter`` of errors grew
since it was told last, and ``count`` of all), ``ib.flap`` (the link went down ``count`` times),
``ib.state`` (it is not in the ``state`` it was in ``before``; GONE where it was removed).
"""

from __future__ import annotations

import errno
import time
from functools import partial
from typing import TYPE_CHECKING

from collectors.level import Level, declare
from collectors.samplers.counters import Counters
from collectors.samplers.parts import Parts
from collectors.samplers.sampler import Absent, Happening, Reading
from collectors.samplers.source import names_in, parsed
from collectors.samplers.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

declare(Level.SAMPLED, "ib.")
declare(Level.ALWAYS, "ib.error", "ib.flap", "ib.state")

_RATES = {
    "port_rcv_data": ("rx_bytes_per_s", 4),  # words of four bytes
    "port_xmit_data": ("tx_bytes_per_s", 4),
    "port_xmit_wait": ("xmit_wait_per_s", 1),
    "np_cnp_sent": ("cnp_sent_per_s", 1),
    "rp_cnp_handled": ("cnp_handled_per_s", 1),
    "np_ecn_marked_roce_packets": ("ecn_marked_per_s", 1),
}
_ERRORS = frozenset(
    (
        "symbol_error",
        "link_error_recovery",
        "local_link_integrity_errors",
        "excessive_buffer_overrun_errors",
        "port_rcv_errors",
        "port_rcv_remote_physical_errors",
        "port_rcv_switch_relay_errors",
        "port_rcv_constraint_errors",
        "port_xmit_constraint_errors",
        "port_xmit_discards",
        "VL15_dropped",
        "out_of_sequence",
        "packet_seq_err",
        "implied_nak_seq_err",
        "local_ack_timeout_err",
        "rnr_nak_retry_err",
        "out_of_buffer",
        "rx_icrc_encapsulated",
        "roce_adp_retrans",
        "roce_slow_restart",
        "req_cqe_error",
        "resp_cqe_error",
        "req_transport_retries_exceeded",
        "req_rnr_retries_exceeded",
    )
)
_FLAPS = "link_downed"
_WANTED = _ERRORS | _RATES.keys() | {_FLAPS}
_UNSUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP)
_DIRECTORIES = ("counters", "hw_counters")


class _Port:
    """A port, and what is kept of it between two readings."""

    def __init__(self, path: Path) -> None:
        self._path = path
        device, number = path.parent.parent.name, path.name
        self._who = {"device": device, "port": int(number)}
        self._name = f"ib.{device}/{number}"
        self._state = ""
        self._counters = Counters()
        self._errors = {directory: Tally() for directory in _DIRECTORIES}

    def read_state(self) -> Iterable[Reading | Happening]:
        """Whether it is up, and how fast."""
        state = parsed(self._path / "state", _word_of)
        yield Reading(f"{self._name}.active", float(state == "ACTIVE"))
        yield Reading(
            f"{self._name}.rate_gbps",
            parsed(self._path / "rate", lambda text: float(text.split()[0])),
        )
        yield from self.turns(state)

    def turns(self, state: str) -> Iterable[Happening]:
        """It is in ``state`` now; said where it was in another before."""
        before, self._state = self._state, state
        if before and before != state:
            yield Happening("ib.state", {**self._who, "before": before, "state": state})

    def read_counters(self, directory: str, now_s: float) -> Iterable[Reading | Happening]:
        """Rates and errors since the last reading, of one of its two directories."""
        path = self._path / directory
        counts = {
            name: count
            for name in names_in(path)
            if name in _WANTED and (count := _count(path / name)) is not None
        }
        yield from self._rates(counts, now_s)
        if _FLAPS in counts and (flaps := self._counters.added(_FLAPS, counts[_FLAPS])):
            yield Happening("ib.flap", {**self._who, "count": int(flaps)}, flaps)
        came = {
            name: self._counters.added(name, count)
            for name, count in counts.items()
            if name in _ERRORS
        }
        told = self._errors[directory].add(came, now_s)
        if told:
            total = sum(told.values())
            kinds = {name: int(count) for name, count in told.items()}
            yield Happening("ib.error", {**self._who, "count": int(total), **kinds}, total)

    def _rates(self, counts: Mapping[str, int], now_s: float) -> Iterable[Reading]:
        for counter, (name, unit) in _RATES.items():
            if counter not in counts:
                continue
            per_s = self._counters.per_s(counter, counts[counter], now_s)
            if per_s is not None:
                yield Reading(f"{self._name}.{name}", per_s * unit)


class InfinibandSampler:
    """All ports of all devices."""

    name = "infiniband"
    period_s = 1.0

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = root / "sys/class/infiniband"
        self._clock = clock
        self._parts = Parts(self.name)
        self._ports: dict[str, _Port] = {}

    def read(self) -> Sequence[Reading | Happening]:
        """What each port did since the last reading.

        Raises:
            Absent: there is no InfiniBand or RoCE device, or it may not be looked at.
            DataError, OSError: no port can be read.
        """
        now_s = self._clock()
        gone = self._find()
        parts: dict[str, Callable[[], Iterable[Reading | Happening]]] = {}
        for name, port in self._ports.items():
            parts[f"{name} state"] = port.read_state
            for directory in _DIRECTORIES:
                parts[f"{name} {directory}"] = partial(port.read_counters, directory, now_s)
        if not parts and not gone:
            raise Absent(f"{self._directory} has no port")
        return [*gone, *self._parts.read(parts, now_s)]

    def close(self) -> None:
        """Nothing is held."""

    def _find(self) -> list[Happening]:
        """Look which ports there are; what is to be told of those that are not there any more."""
        before, here = self._ports, {}
        troubles: list[Exception] = []
        for place in self._places(troubles):
            name = f"{place.parent.parent.name}/{place.name}"
            here[name] = before.get(name) or _Port(place)
        if troubles and not here and not before:
            raise troubles[0]
        self._ports = here
        gone = before.keys() - here.keys()
        return [one for name in sorted(gone) for one in before[name].turns("GONE")]

    def _places(self, troubles: list[Exception]) -> Iterator[Path]:
        """Directories of ports; a device that cannot be looked at does not hide the others."""
        try:
            for device in names_in(self._directory):
                ports = self._directory / device / "ports"
                try:
                    yield from (ports / number for number in names_in(ports))
                except Absent as absent:
                    troubles.append(absent)
        except Absent as absent:
            troubles.append(absent)


def _word_of(text: str) -> str:
    """Of ``4: ACTIVE`` the word."""
    _, _, word = text.partition(": ")
    if not word.strip():
        raise ValueError("no state")
    return word.strip()


def _count(path: Path) -> int | None:
    """None where the device does not support this counter, and says so in one of several ways."""
    try:
        return parsed(path, lambda text: None if text.startswith("N/A") else int(text))
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise
