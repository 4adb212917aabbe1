"""What Prometheus reads of us, by its own parser, and what OpenTelemetry gets, by its protobuf."""

from __future__ import annotations

import math
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from collectors.annotation import annotate
from collectors.clock import host_name
from collectors.errors import MissingExtra, TimedOut, Unreachable
from collectors.exporters import otlp
from collectors.exporters.families import Families
from collectors.exporters.metric_names import metric_of
from collectors.exporters.metrics_server import MetricsServer
from collectors.exporters.prometheus import MetricsPage
from collectors.query.direct import Store
from collectors.recorder import Identity, open_recorder
from collectors.run import RunDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from collectors.recorder import Recorder

STATUS = {
    "lag": {
        "last_minute": {"count": 5, "p50_s": 0.1, "p99_s": None, "max_s": 0.2},
        "since_start": {"count": 50},
    },
    "alerts": {"rules": [{"name": "slow", "active": 2, "error": ""}]},
}


def record(run: RunDirectory, role: str, rank: int | None) -> Recorder:
    identity = Identity(
        run_id=run.run_id, role=role, rank=rank, world_size=2, host=host_name(), coordinates={}
    )
    return open_recorder(run.spool, identity)


def read(page: bytes) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Metrics by name and labels (without the run's), as Prometheus would read them."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            labels = tuple(sorted(p for p in sample.labels.items() if p[0] not in ("run", "host")))
            assert labels not in found.get(sample.name, {}), "no series twice"
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def page_of(home: Path, reference: str = "last", status: Any = None) -> MetricsPage:
    return MetricsPage(reference, open_store=lambda: Store.open(home), status=lambda: status)


@pytest.fixture
def made() -> Iterator[Callable[[MetricsPage], bytes]]:
    pages: list[MetricsPage] = []

    def make(page: MetricsPage) -> bytes:
        pages.append(page)
        return page.make()

    yield make
    for page in pages:
        page.close()


# -- the page -----------------------------------------------------------------------------------


def test_a_training_run(home: Path, made: Callable[[MetricsPage], bytes]) -> None:
    """Rank 1 comes 30 ms late to the collective in which rank 0 waits."""
    run = RunDirectory.create(
        home, name='odd "name"\n', kind="training", command=[], config={}, world_size=2
    )
    ms = 10**6
    for rank, arrival in ((0, 10), (1, 40)):
        recorder = record(run, "trainer", rank)
        for step in range(3):
            start = 10**12 + step * 100 * ms
            recorder.record_span("step", start, start + 100 * ms, step)
            recorder.collective(
                "all_reduce",
                group="dp[0,1]",
                group_size=2,
                sequence=step,
                size_bytes=8,
                start_ns=start + arrival * ms,
                end_ns=start + 50 * ms,
                step=step,
            )
            recorder.sample("tokens", 1000, step)
            recorder.sample("loss", math.nan if step == 2 else 3.0 - step, step)
        recorder.sample("gpu.0.power_w", 350.5)
        recorder.sample("gpu.0.power_w", 351.5)
        recorder.sample("host.cpu_util_pct", 50.0)
        recorder.close()
    annotate(run, "diagnosis", "finding", [{"kind": "straggler", "ranks": [1], "steps": [0, 2]}])
    metrics = read(made(page_of(home, status=STATUS)))

    [(about, one)] = metrics["opsuite_run_info"].items()
    assert (dict(about)["status"], dict(about)["name"], one) == ("running", 'odd "name"\n', 1)
    assert metrics["opsuite_steps_total"] == {(): 3}
    assert metrics["opsuite_last_step"] == {(): 2}
    by_rank = {
        name: [metrics[f"opsuite_step_{name}_seconds"][(("rank", str(rank)),)] for rank in (0, 1)]
        for name in ("duration", "own", "blocked")
    }
    assert by_rank["duration"] == [pytest.approx(0.1)] * 2
    assert by_rank["own"] == [pytest.approx(0.06), pytest.approx(0.09)]
    assert by_rank["blocked"] == [pytest.approx(0.03), pytest.approx(0.0)]
    assert metrics["opsuite_tokens_per_second"][()] == pytest.approx(3000 / 0.3)
    assert math.isnan(metrics["opsuite_loss"][()])  # which is a value, and an alarming one
    device = (("device", "0"), ("rank", "0"))
    assert metrics["opsuite_gpu_power_watts"][device] == 351.5
    assert metrics["opsuite_host_cpu_util_ratio"][(("device", ""), ("rank", "1"))] == 0.5
    assert metrics["opsuite_findings"] == {(("finding", "straggler"),): 1}
    assert metrics["opsuite_records_dropped_total"] == {(): 0}
    assert metrics["opsuite_collector_up"] == {(): 1}
    assert metrics["opsuite_collector_lag_seconds"] == {
        (("quantile", "0.5"),): 0.1,
        (("quantile", "1"),): 0.2,
    }
    assert metrics["opsuite_alerts_firing"] == {(("rule", "slow"),): 2}
    assert metrics["opsuite_series_left_out"] == {(): 0}
    assert metrics["opsuite_scrape_duration_seconds"][()] > 0


def served(home: Path) -> RunDirectory:
    """A run of a server with three requests: one well, one that failed, one that still waits."""
    run = RunDirectory.create(
        home, name="org/m", kind="serving", command=[], config={"max_batch": 4}, world_size=1
    )
    recorder = record(run, "server", 0)
    for number in range(3):
        about = {"id": f"cmpl-{number}", "prompt_tokens": 7}
        recorder.event("request.arrived", subject=number, attributes=about)
    recorder.event("request.scheduled", subject=0)
    recorder.event("request.scheduled", subject=1)
    time.sleep(0.02)
    recorder.event("request.first_token", subject=0)
    time.sleep(0.03)
    recorder.event("request.finished", subject=0, value=5, attributes={"reason": "stop"})
    recorder.event("request.finished", subject=1, value=0, attributes={"reason": "error"})
    recorder.close()
    return run


def test_a_serving_run(home: Path, made: Callable[[MetricsPage], bytes]) -> None:
    served(home)
    metrics = read(made(page_of(home)))
    key = (("model", "org/m"), ("source", "opsuite"))
    assert metrics["opsuite_serving_running_requests"] == {key: 0}
    assert metrics["opsuite_serving_waiting_requests"] == {key: 1}
    assert "opsuite_serving_kv_usage_ratio" not in metrics  # not known, and so not there
    assert metrics["opsuite_serving_generation_tokens_per_second"][key] in (5.0, 2.5)
    assert metrics["opsuite_serving_ttft_seconds"][(("quantile", "0.99"),)] >= 0.02
    assert metrics["opsuite_collector_up"] == {(): 0}


def test_nothing_recorded_yet(home: Path, made: Callable[[MetricsPage], bytes]) -> None:
    metrics = read(made(page_of(home, status=STATUS | {"alerts": None})))  # no rules either
    assert "opsuite_run_info" not in metrics
    assert "opsuite_alerts_firing" not in metrics


def test_series_are_bounded_and_that_is_told() -> None:
    families = Families(most_series=10)
    for number in range(25):
        families.gauge("opsuite_a", "x", {"rank": str(number)}, number)
    families.gauge("opsuite_b", "x", {"text": "y" * 10_000 + '"\n'}, 1)
    families.gauge("opsuite_c", "x", {}, None)
    metrics = read(families.text())
    assert len(metrics["opsuite_a"]) == 10
    assert metrics["opsuite_series_left_out"] == {(): 15}
    assert len(families.text()) < 2000
    assert "opsuite_c" not in metrics


@pytest.mark.parametrize(
    ("sample", "metric"),
    [
        ("gpu.0.sm_clock_mhz", ("opsuite_gpu_sm_clock_hertz", "0", 1e6)),
        ("gpu.1.temperature_c", ("opsuite_gpu_temperature_celsius", "1", 1.0)),
        ("net.eth0.100.rx_bytes", ("opsuite_net_rx_bytes", "eth0.100", 1.0)),
        ("gpu.0.pcie_tx_bytes_per_s", ("opsuite_gpu_pcie_tx_bytes_per_second", "0", 1.0)),
        ("python.gc_pause_s", ("opsuite_python_gc_pause_seconds", "", 1.0)),
        ("disk.nvme-0.odd name", ("opsuite_disk_odd_name", "nvme-0", 1.0)),
    ],
)
def test_names_have_base_units(sample: str, metric: tuple[str, str, float]) -> None:
    assert metric_of(sample) == metric


def test_one_page_at_a_time_and_within_its_time() -> None:
    """A store that hangs is asked once, whoever waits; when it is back, so is the page."""
    opened: list[int] = []
    go_on = threading.Event()

    def slow() -> Any:
        opened.append(1)
        go_on.wait(5.0)
        raise Unreachable("it is gone")

    page = MetricsPage("last", open_store=slow, status=lambda: None, timeout_s=0.1)
    with closing(page):
        for _ in range(3):
            with pytest.raises(TimedOut, match="did not answer"):
                page.make()
        assert len(opened) == 1
        go_on.set()
        with pytest.raises(Unreachable, match="gone"):
            page.make()


# -- its server -----------------------------------------------------------------------------------


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    servers: list[tuple[MetricsServer, threading.Thread]] = []

    def one(page: Callable[[], bytes], **options: Any) -> str:
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        server = MetricsServer(listening, page, **({"api_key": None, "hosts": None} | options))
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield one
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def get(url: str, **headers: str) -> tuple[int, bytes, str]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read(), answer.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers["Content-Type"]


def test_who_may_ask(serve: Callable[..., str]) -> None:
    url = serve(lambda: b"a 1\n", api_key="k1", hosts={"127.0.0.1"})
    assert get(f"{url}/metrics")[0] == 401
    assert get(f"{url}/metrics", Authorization="Bearer k2")[0] == 401
    status, body, kind = get(f"{url}/metrics", Authorization="Bearer k1")
    assert (status, body) == (200, b"a 1\n")
    assert kind.startswith("text/plain; version=0.0.4")
    assert get(f"{url}/metrics", Authorization="Bearer k1", Host="evil.example")[0] == 400
    assert get(f"{url}/", Authorization="Bearer k1")[0] == 404


def test_what_fails_is_said(serve: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    def gone() -> bytes:
        raise Unreachable("the store is gone")

    def bug() -> bytes:
        raise ZeroDivisionError

    assert get(serve(gone) + "/metrics")[:2] == (503, b"the store is gone\n")
    assert get(serve(bug) + "/metrics")[:2] == (500, b"internal error\n")
    assert "ZeroDivisionError" in caplog.text


# -- OpenTelemetry --------------------------------------------------------------------------------


class _Receiver(BaseHTTPRequestHandler):
    server: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if status == 200:
            self.server.bodies.append((self.path, body))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def receiver() -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), _Receiver)
    server.bodies, server.statuses = [], []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def send(home: Path, run: RunDirectory, url: str) -> int:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra otlp")
    sender = otlp.TraceSender(url, run_id=run.run_id, model="org/m", host="h")
    with closing(sender), Store.open(home) as store:
        for part in otlp.EndedRequests(run.run_id).new(store):
            sender.send(part)
    return sender.sent


def spans_of(body: bytes) -> dict[tuple[str, str], Any]:
    """Spans by trace and name, as its own protobuf decodes them."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    message = ExportTraceServiceRequest.FromString(body)
    return {
        (span.trace_id.hex(), span.name): span
        for resource in message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }


def test_requests_become_traces_at_their_true_times(home: Path, receiver: Any) -> None:
    run = served(home)
    assert send(home, run, receiver.url) == 2  # the third has not ended
    [(path, body)] = receiver.bodies
    assert path == "/v1/traces"
    spans = spans_of(body)
    with Store.open(home) as store:
        at = {
            (name, subject): at_ns
            for name, subject, at_ns in store.rows("SELECT name, subject, at_ns FROM events")
        }
    by_request = {
        attribute.value.int_value: span
        for (_, name), span in spans.items()
        for attribute in span.attributes
        if attribute.key == "opsuite.request"
    }
    root = by_request[0]
    times = {
        name: (span.start_time_unix_nano, span.end_time_unix_nano)
        for (trace, name), span in spans.items()
        if trace == root.trace_id.hex()
    }
    arrived, scheduled = at["request.arrived", 0], at["request.scheduled", 0]
    first, finished = at["request.first_token", 0], at["request.finished", 0]
    assert times == {
        "request": (arrived, finished),
        "queue": (arrived, scheduled),
        "prefill": (scheduled, first),
        "decode": (first, finished),
    }
    told = {a.key: a.value for a in root.attributes}
    assert told["gen_ai.request.model"].string_value == "org/m"
    assert told["gen_ai.usage.input_tokens"].int_value == 7
    assert told["gen_ai.usage.output_tokens"].int_value == 5
    assert told["gen_ai.response.id"].string_value == "cmpl-0"
    children = [s for s in spans.values() if s.parent_span_id]
    assert {s.parent_span_id for s in children} == {r.span_id for r in by_request.values()}
    failed = by_request[1]
    assert failed.status.code == 2  # ERROR
    assert (failed.trace_id.hex(), "decode") not in spans

    send(home, run, receiver.url + "/v1/traces")  # again, the same ids: nothing is doubled
    again = spans_of(receiver.bodies[1][1])
    assert {k: s.span_id for k, s in again.items()} == {k: s.span_id for k, s in spans.items()}


def test_each_request_once_in_pages(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "_PAGE", 3)
    monkeypatch.setattr(otlp, "_BATCH", 2)
    run = RunDirectory.create(home, name="m", kind="serving", command=[], config={}, world_size=1)
    recorder = record(run, "server", 0)
    ended = otlp.EndedRequests(run.run_id)

    def end(numbers: range) -> None:
        for number in numbers:
            recorder.event("request.arrived", subject=number, attributes={"id": str(number)})
            recorder.event("request.finished", subject=number, attributes={"reason": "stop"})

    def new() -> list[list[int]]:
        with Store.open(home) as store:
            return [[one.request for one in part] for part in ended.new(store)]

    end(range(7))
    assert new() == [[0, 1], [2], [3, 4], [5], [6]]
    assert new() == []
    end(range(7, 9))
    assert new() == [[7, 8]]
    recorder.close()


def test_an_endpoint_that_takes_nothing(home: Path, receiver: Any) -> None:
    run = served(home)
    receiver.statuses += [400]
    with pytest.raises(Unreachable, match="0 requests were sent") as caught:
        send(home, run, receiver.url)
    assert caught.value.exit_code == 3


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "_EXPORTER", "opsuite_has_no_such_package.inside")
    with pytest.raises(MissingExtra, match=r"pip install \"opsuite\[otlp\]\""):
        otlp.require_otlp()
