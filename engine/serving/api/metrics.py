"""How the server does, for Prometheus: vLLM's names under our prefix.

What clients see is measured here, where they are answered; how busy the engine is, it tells itself
(``vllm/v1/metrics/loggers.py`` says what each name means there).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as MEDIA_TYPE
from prometheus_client.registry import Collector

from engine.serving.request import FinishReason
from engine.serving.wire import Load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.core import Metric

    from engine.serving.api.delta import Delta
    from engine.serving.request import GenerationRequest

__all__ = ["MEDIA_TYPE", "EngineState", "Metrics"]

_TTFT_S = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5),
    *(5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_ITL_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_E2E_S = (
    *(0.01, 0.03, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0),
    *(50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CANCELLED: "abort",
    FinishReason.ERROR: "error",
}


class EngineState(Protocol):
    """What an engine tells of itself; after a restart its counts begin at 0."""

    @property
    def load(self) -> Load: ...
    @property
    def restarts(self) -> int: ...


@dataclass(slots=True)
class _Life:
    """Of a request that has not ended: when it came, and when its last token did."""

    arrived_s: float
    prompt_tokens: int
    last_s: float | None = None


class Metrics:
    """Told of every request; asked by whoever collects.

    Args:
        model: its name, a label of all.
        clock: seconds that only grow.
    """

    def __init__(
        self, model: str, engine: EngineState, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._model = model
        self._clock = clock
        self._lives: dict[int, _Life] = {}
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_EngineCollector(model, engine))
        self._ttft = self._histogram("time_to_first_token_seconds", "To the first token.", _TTFT_S)
        self._itl = self._histogram("inter_token_latency_seconds", "From token to token.", _ITL_S)
        self._e2e = self._histogram("e2e_request_latency_seconds", "To the last token.", _E2E_S)
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts computed.")
        self._generated = self._counter("generation_tokens", "Tokens generated.")
        success = Counter(
            "opsuite:request_success",
            "Requests that ended, by why.",
            ["model_name", "finished_reason"],
            registry=self._registry,
        )
        self._ended = {reason: success.labels(model, text) for reason, text in _REASONS.items()}

    def arrived(self, requests: Iterable[GenerationRequest]) -> None:
        """These have just come."""
        now = self._clock()
        for request in requests:
            self._lives[request.number] = _Life(now, len(request.prompt))

    def given(self, delta: Delta) -> None:
        """A request was given a token, or ended."""
        if delta.finish in (FinishReason.ERROR, FinishReason.CANCELLED):
            self.ended(delta.number, delta.finish)
            return
        now, life = self._clock(), self._lives[delta.number]
        if life.last_s is None:
            self._ttft.observe(now - life.arrived_s)
            self._prompt_tokens.inc(life.prompt_tokens)
        else:
            self._itl.observe(now - life.last_s)
        life.last_s = now
        self._generated.inc()
        if delta.finish:
            self._e2e.observe(now - life.arrived_s)
            self.ended(delta.number, delta.finish)

    def ended(self, number: int, reason: FinishReason) -> None:
        """A request is over."""
        del self._lives[number]
        self._ended[reason].inc()

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)

    def _histogram(self, name: str, help_text: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(
            f"opsuite:{name}", help_text, ["model_name"], registry=self._registry, buckets=bounds
        ).labels(self._model)

    def _counter(self, name: str, help_text: str) -> Counter:
        return Counter(
            f"opsuite:{name}", help_text, ["model_name"], registry=self._registry
        ).labels(self._model)


class _EngineCollector(Collector):
    """What the engine tells; counts go on across its restarts, as far as they were collected."""

    def __init__(self, model: str, engine: EngineState) -> None:
        self._model = model
        self._engine = engine
        self._restarts = engine.restarts
        self._before = Load()
        self._last = Load()

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are the collector's own, and cannot collide."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """As of now."""
        self._catch_up()
        load, before = self._last, self._before
        yield self._gauge("num_requests_running", "Requests in the last iteration.", load.running)
        yield self._gauge("num_requests_waiting", "Requests that wait on the device.", load.waiting)
        yield self._gauge("num_requests_swapped", "Requests moved to the host.", load.swapped)
        yield self._gauge("kv_cache_usage_perc", "Share of the device's blocks.", load.kv_usage)
        yield self._gauge("cpu_cache_usage_perc", "Share of the host's blocks.", load.host_usage)
        for name, help_text, count in (
            ("num_preemptions", "Requests that gave way.", before.preemptions + load.preemptions),
            (
                "prefix_cache_queries",
                "Tokens looked for in the prefix cache.",
                before.prefix_tokens + load.prefix_tokens,
            ),
            (
                "prefix_cache_hits",
                "Tokens found in the prefix cache.",
                before.shared_tokens + load.shared_tokens,
            ),
            ("engine_restarts", "Engines that died and were replaced.", self._restarts),
        ):
            yield self._counter(name, help_text, count)

    def _catch_up(self) -> None:
        if self._engine.restarts != self._restarts:
            self._restarts = self._engine.restarts
            self._before = Load(
                preemptions=self._before.preemptions + self._last.preemptions,
                prefix_tokens=self._before.prefix_tokens + self._last.prefix_tokens,
                shared_tokens=self._before.shared_tokens + self._last.shared_tokens,
            )
        self._last = self._engine.load

    def _gauge(self, name: str, help_text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"opsuite:{name}", help_text, labels=["model_name"])
        family.add_metric([self._model], value)
        return family

    def _counter(self, name: str, help_text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"opsuite:{name}", help_text, labels=["model_name"])
        family.add_metric([self._model], value)
        return family
