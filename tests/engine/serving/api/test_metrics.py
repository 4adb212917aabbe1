"""What the server tells Prometheus is what happened, and ``opsuite watch`` understands it."""

from __future__ import annotations

import pytest

pytest.importorskip("msgspec", reason="needs the engine extra")

from collectors.samplers.exposition import read_exposition
from collectors.samplers.server_progress import Interval, ServerProgress
from engine.serving.api.delta import Delta
from engine.serving.api.metrics import Metrics
from engine.serving.request import FinishReason, GenerationRequest
from engine.serving.wire import Load


class Engine:
    """Tells what the test says."""

    def __init__(self) -> None:
        self.load = Load()
        self.restarts = 0


class Server:
    """Metrics on a clock that the test moves, read as ``opsuite watch`` reads them."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.engine = Engine()
        self.metrics = Metrics("a model", self.engine, clock=lambda: self.now_s)
        self._progress = ServerProgress(most_models=8)
        self.read()

    def read(self) -> Interval:
        exposition = read_exposition(self.metrics.text().decode())
        assert exposition is not None
        assert exposition.dialect.source == "opsuite"
        assert exposition.started_s is not None
        progress = self._progress.take(exposition, self.now_s)
        assert not progress.restarted
        (interval,) = progress.intervals
        assert interval.model == "a model"
        return interval

    def arrive(self, number: int, prompt_tokens: int) -> None:
        prompt = (1,) * prompt_tokens
        request = GenerationRequest(number=number, id="", prompt=prompt, max_tokens=9)
        self.metrics.arrived([request])

    def give(self, number: int, after_s: float, finish: FinishReason | None = None) -> None:
        self.now_s += after_s
        self.metrics.given(Delta(number=number, text="", tokens=1, finish=finish))


def test_requests_tokens_and_latencies() -> None:
    server = Server()
    server.arrive(1, 7)
    server.arrive(2, 5)
    server.give(1, 0.3)
    server.give(1, 0.03)
    server.give(1, 0.03, FinishReason.LENGTH)
    server.give(2, 0.0)
    server.metrics.ended(2, FinishReason.CANCELLED)
    server.arrive(3, 100)
    server.give(3, 1.0, FinishReason.ERROR)
    interval = server.read()
    assert interval.counts == {
        **{"prompt_tokens": 12, "generation_tokens": 4, "preemptions": 0},
        **{"finished": 1, "cancelled": 1, "errors": 1},
    }
    first, between = interval.latencies["ttft_s"], interval.latencies["itl_s"]
    assert (first.low, first.high, first.counts) == ((0.25,), (0.5,), (2,))
    assert first.sum_s == pytest.approx(0.3 + 0.36)
    assert (between.low, between.high, between.counts) == ((0.025,), (0.05,), (2,))
    whole = interval.latencies["latency_s"]
    assert whole.counts == (1,)
    assert whole.sum_s == pytest.approx(0.36)


def test_how_busy_the_engine_is_and_that_its_counts_outlive_it() -> None:
    """A new engine counts from 0; a counter that fell would read as a server that restarted."""
    server = Server()
    server.engine.load = Load(running=3, waiting=2, swapped=1, kv_usage=0.25, preemptions=40)
    busy = server.read()
    assert busy.gauges == {"running": 3, "waiting": 2, "kv_usage": 0.25}
    assert busy.counts["preemptions"] == 40
    server.engine.restarts = 1
    server.engine.load = Load(preemptions=2)
    assert server.read().counts["preemptions"] == 2
    text = server.metrics.text().decode()
    assert 'opsuite:num_preemptions_total{model_name="a model"} 42.0' in text
    assert 'opsuite:engine_restarts_total{model_name="a model"} 1.0' in text
