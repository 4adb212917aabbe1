"""Spans of what a device does, measured by pairs of events that nobody waits for."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from collectors.clock import now_ns
from collectors.level import Level, declare

if TYPE_CHECKING:
    from collections.abc import Callable

    from collectors.recorder import Recorder

PREFIX = "device."
declare(Level.SAMPLED, PREFIX)
_NS_PER_MS = 1e6
_ANCHORS = 5
_ANCHOR_LIFE_MS = 10_000.0  # elapsed times are float32: after 10 s they are good to 1 us
_MOST_OPEN = 1024


class DeviceEvent(Protocol):
    """What :class:`torch.cuda.Event` is."""

    def record(self) -> None:
        """Have the device note the time when it comes here."""

    def query(self) -> bool:
        """Whether it has."""

    def synchronize(self) -> None:
        """Wait until it has."""

    def elapsed_time(self, end_event: Any) -> float:  # noqa: ANN401 - of the same class
        """Milliseconds from this event to that one."""


class DeviceSpans(Protocol):
    """Measures spans of a device; ``begin`` and ``end`` come in pairs, like brackets."""

    def begin(self, name: str, step: int) -> None:
        """What is given to the device from now on belongs to ``name``."""

    def end(self) -> None:
        """Up to here."""

    def resolve(self) -> int:
        """Record the spans that the device has finished; gives how many are still open."""


def open_device_spans(device: torch.device, recorder: Recorder) -> DeviceSpans:
    """For a CUDA device by its events, for a CPU by the host's clock."""
    if device.type != "cuda":
        return HostSpans(recorder)

    def make() -> DeviceEvent:
        event: DeviceEvent = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        return event

    with torch.cuda.device(device):
        return EventSpans(recorder, make)


class HostSpans:
    """The same where host and device are one: both ends are known at once."""

    def __init__(self, recorder: Recorder, clock: Callable[[], int] = now_ns) -> None:
        self._recorder = recorder
        self._clock = clock
        self._open: list[tuple[str, int, int]] = []

    def begin(self, name: str, step: int) -> None:
        """See :class:`DeviceSpans`."""
        self._open.append((name, step, self._clock()))

    def end(self) -> None:
        """See :class:`DeviceSpans`."""
        name, step, start_ns = self._open.pop()
        self._recorder.record_span(PREFIX + name, start_ns, self._clock(), step)

    def resolve(self) -> int:
        """See :class:`DeviceSpans`."""
        return 0


@dataclass(kw_only=True)
class _Pair:
    name: str
    step: int
    first: DeviceEvent
    last: DeviceEvent | None = None
    given_ns: int  # by the host's clock: the device cannot have begun before


class EventSpans:
    """Pairs of events, looked at later; the host waits for the device once, at the beginning.

    An event's time on the host's clock is that of an anchor plus what elapsed on the device since.
    The two clocks drift apart, so each span corrects the anchor: it cannot begin before the host
    gave it to the device, nor end after the host saw that it had ended.

    Args:
        make: a new event.
        clock: the host's, monotonic nanoseconds.
    """

    def __init__(
        self,
        recorder: Recorder,
        make: Callable[[], DeviceEvent],
        clock: Callable[[], int] = now_ns,
    ) -> None:
        self._recorder = recorder
        self._make = make
        self._clock = clock
        self._open: list[_Pair] = []
        self._ended: deque[_Pair] = deque()
        self._spare: list[DeviceEvent] = []
        self._anchor, self._anchor_ns = self._take_anchor()

    def begin(self, name: str, step: int) -> None:
        """See :class:`DeviceSpans`."""
        given_ns = self._clock()
        self._open.append(_Pair(name=name, step=step, first=self._mark(), given_ns=given_ns))

    def end(self) -> None:
        """See :class:`DeviceSpans`."""
        pair = self._open.pop()
        pair.last = self._mark()
        self._ended.append(pair)
        if len(self._ended) > _MOST_OPEN:  # the device hangs, or nobody resolves
            self._ended.popleft()

    def resolve(self) -> int:
        """See :class:`DeviceSpans`."""
        while self._ended:
            pair = self._ended[0]
            if pair.last is None or not pair.last.query():
                break
            self._ended.popleft()
            self._record(pair, pair.last)
        return len(self._ended)

    def _record(self, pair: _Pair, last: DeviceEvent) -> None:
        seen_ns = self._clock()
        start_ns = self._host_ns(pair.first)
        end_ns = start_ns + round(pair.first.elapsed_time(last) * _NS_PER_MS)
        correction = max(pair.given_ns - start_ns, 0) or min(seen_ns - end_ns, 0)
        self._anchor_ns += correction
        start_ns, end_ns = start_ns + correction, end_ns + correction
        self._recorder.record_span(PREFIX + pair.name, start_ns, end_ns, pair.step)
        self._spare.append(pair.first)
        if self._anchor.elapsed_time(last) > _ANCHOR_LIFE_MS:
            self._anchor, last, self._anchor_ns = last, self._anchor, end_ns
        self._spare.append(last)

    def _host_ns(self, event: DeviceEvent) -> int:
        return self._anchor_ns + round(self._anchor.elapsed_time(event) * _NS_PER_MS)

    def _mark(self) -> DeviceEvent:
        event = self._spare.pop() if self._spare else self._make()
        event.record()
        return event

    def _take_anchor(self) -> tuple[DeviceEvent, int]:
        """An event, and the host's time when the device came to it: of several, the surest."""
        best: tuple[int, DeviceEvent, int] | None = None
        for _ in range(_ANCHORS):
            event = self._make()
            before = self._clock()
            event.record()
            event.synchronize()
            after = self._clock()
            if best is None or after - before < best[0]:
                best = (after - before, event, (before + after) // 2)
        assert best is not None
        return best[1], best[2]
