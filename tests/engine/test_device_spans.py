"""Device spans lie where the device was busy, by the host's clock, though the two drift apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from collectors.recorder import NullRecorder

torch = pytest.importorskip("torch", reason="needs the engine extra")

from engine.device_spans import EventSpans, HostSpans, open_device_spans  # noqa: E402


class Recorder(NullRecorder):
    """Keeps the spans."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, int, int, int]] = []

    def record_span(self, name: str, start_ns: int, end_ns: int, step: int = -1) -> None:
        self.spans.append((name, start_ns, end_ns, step))


@dataclass
class Device:
    """A queue that works through what it is given, with a clock of its own and float32 times."""

    host_ns: int = 0
    free_ns: int = 0
    drift: float = 0.0
    waits: int = 0
    made: int = field(default=0)

    def work(self, took_ns: int) -> None:
        self.free_ns = max(self.free_ns, self.host_ns) + took_ns

    def event(self) -> Event:
        self.made += 1
        return Event(self)


class Event:
    """As torch.cuda.Event."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.at_ns = 0

    def record(self) -> None:
        self._device.host_ns += 2_000
        self.at_ns = max(self._device.free_ns, self._device.host_ns)

    def query(self) -> bool:
        return self._device.host_ns >= self.at_ns

    def synchronize(self) -> None:
        self._device.waits += 1
        self._device.host_ns = max(self._device.host_ns, self.at_ns) + 3_000

    def elapsed_time(self, end_event: Any) -> float:
        drifted = (end_event.at_ns - self.at_ns) * (1 + self._device.drift)
        return float(np.float32(drifted / 1e6))


@pytest.mark.parametrize("drift", [0.0, 2e-5, -2e-5])
def test_spans_are_right_to_some_microseconds_over_an_hour(drift: float) -> None:
    device, recorder = Device(drift=drift), Recorder()
    spans = EventSpans(recorder, device.event, lambda: device.host_ns)
    waits, truth = device.waits, []
    for step in range(3600):
        device.host_ns += 970_000_000
        begun_ns = max(device.host_ns, device.free_ns)
        spans.begin("forward", step)
        device.work(20_000_000)
        spans.end()
        truth.append((begun_ns, begun_ns + 20_000_000))
        assert spans.resolve() == 1  # it is not done yet, and nobody waits
        device.host_ns += 30_000_000
        assert spans.resolve() == 0
    assert device.waits == waits, "the host waited for the device"
    assert device.made < 20, "events are used again"
    assert [step for *_, step in recorder.spans] == list(range(3600))
    found = np.array([(start, end) for _, start, end, _ in recorder.spans])
    # What the bounds leave open is how long the device was idle around a span: 30 ms here at worst.
    allowed = 30_000 if drift == 0 else 12_000_000
    assert np.abs(found - np.array(truth)).max() < allowed
    durations = found[:, 1] - found[:, 0]
    assert np.abs(durations - 20_000_000).max() < 10_000


def test_spans_of_a_device_that_hangs_do_not_pile_up() -> None:
    device, recorder = Device(), Recorder()
    spans = EventSpans(recorder, device.event, lambda: device.host_ns)
    device.work(10**15)
    for step in range(5000):
        spans.begin("forward", step)
        spans.end()
    assert spans.resolve() <= 1024
    assert recorder.spans == []


def test_on_a_cpu_the_same_interface_reads_the_hosts_clock() -> None:
    recorder = Recorder()
    spans = open_device_spans(torch.device("cpu"), recorder)
    assert isinstance(spans, HostSpans)
    spans.begin("forward", 3)
    spans.begin("inner", 3)
    spans.end()
    spans.end()
    assert spans.resolve() == 0
    assert [(name, step) for name, *_, step in recorder.spans] == [
        ("device.inner", 3),
        ("device.forward", 3),
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_a_gpu_a_long_kernel_is_seen_without_waiting_for_it() -> None:
    import time

    recorder = Recorder()
    spans = open_device_spans(torch.device("cuda", 0), recorder)
    matrix = torch.randn(8192, 8192, device="cuda")
    torch.cuda.synchronize()
    before = time.monotonic_ns()
    spans.begin("forward", 1)
    for _ in range(20):
        matrix = matrix @ matrix.tanh()
    spans.end()
    issued = time.monotonic_ns()
    while spans.resolve():
        time.sleep(0.001)
    seen = time.monotonic_ns()
    ((_, start_ns, end_ns, _),) = recorder.spans
    assert before <= start_ns <= end_ns <= seen
    assert end_ns > issued, "the host waited for the device"
