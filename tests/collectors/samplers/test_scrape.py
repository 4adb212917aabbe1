"""A server's /metrics over real HTTP: present, absent, denied, failing half-way, and hostile."""

from __future__ import annotations

import math
import shutil
import ssl
import subprocess
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from collectors.errors import DataError, OpsuiteError, TimedOut, Unreachable, UsageError
from collectors.query.direct import Store
from collectors.recorder import Identity, open_recorder
from collectors.run import RunDirectory
from collectors.samplers.exposition import read_exposition
from collectors.samplers.scrape import MOST_BYTES, Refused, fetch, parse_address
from collectors.samplers.server_progress import ServerProgress
from collectors.samplers.server_watch import ServerWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BY_END = " ORDER BY start_ns + coalesce(duration_s, 0) * 1e9"  # the clock of tests leaps
TTFT_BOUNDS = [0.001, 0.01, 0.1, 0.25, 0.5, 1.0, 2.5]


class Vllm:
    """vLLM's metrics as it makes them: prometheus_client, labels of model and engine."""

    def __init__(self, *, engines: int = 1, model: str = "meta/Llama", old: bool = False) -> None:
        self.registry = CollectorRegistry()
        labels = ["model_name", "engine"]
        self.engines = [(model, str(engine)) for engine in range(engines)]

        def make(kind: Any, name: str, *more: str, **options: Any) -> Any:
            made = kind(f"vllm:{name}", "x", [*labels, *more], registry=self.registry, **options)
            if not more:
                for engine in self.engines:
                    made.labels(*engine)
            return made

        self.running = make(Gauge, "num_requests_running")
        self.waiting = make(Gauge, "num_requests_waiting")
        self.usage = make(Gauge, "gpu_cache_usage_perc" if old else "kv_cache_usage_perc")
        self.prompt = make(Counter, "prompt_tokens")
        self.generated = make(Counter, "generation_tokens")
        self.preempted = make(Counter, "num_preemptions")
        self.success = make(Counter, "request_success", "finished_reason")
        for engine in self.engines:
            for reason in ("stop", "abort", "error"):
                self.success.labels(*engine, reason)
        per_token = "time_per_output_token_seconds" if old else "inter_token_latency_seconds"
        self.ttft = make(Histogram, "time_to_first_token_seconds", buckets=TTFT_BOUNDS)
        self.itl = make(Histogram, per_token, buckets=[0.01, 0.05, 0.1])
        make(Histogram, "iteration_tokens_total", buckets=[1, 8])  # nothing that we want

    def request(self, ttft: float, tokens: int, *, engine: int = 0, reason: str = "stop") -> None:
        labels = self.engines[engine]
        self.ttft.labels(*labels).observe(ttft)
        self.prompt.labels(*labels).inc(7)
        self.generated.labels(*labels).inc(tokens)
        for _ in range(tokens - 1):
            self.itl.labels(*labels).observe(0.02)
        self.success.labels(*labels, reason).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)


@dataclass
class Answer:
    """What the server below says to a path."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    declared: int | None = None
    pause_s: float = 0.0


class Server(ThreadingHTTPServer):
    """Answers on loopback; ``answers`` may be changed while it runs."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        answer = self.server.answers.get(self.path, Answer(status=404))
        self.send_response(answer.status)
        length = len(answer.body) if answer.declared is None else answer.declared
        if length >= 0:
            self.send_header("Content-Length", str(length))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        pieces = [answer.body] if not answer.pause_s else [bytes([b]) for b in answer.body]
        try:
            for piece in pieces:
                self.wfile.write(piece)
                time.sleep(answer.pause_s)
        except OSError:
            self.close_connection = True  # it went away, as it should

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


def get(url: str, *, timeout_s: float = 5.0, api_key: str | None = None) -> str:
    return fetch(parse_address(url, api_key=api_key), timeout_s=timeout_s)


# -- fetching -----------------------------------------------------------------------------------


def test_where_metrics_are_and_what_is_sent(server: Server, monkeypatch: Any) -> None:
    """Root, /v1 and the metrics themselves mean the same; no proxy of the environment is asked."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server.answers["/metrics"] = Answer(status=307, headers={"Location": "/metrics/"})
    server.answers["/metrics/"] = Answer(body=b"a 1\n")
    for path in ("", "/", "/v1", "/v1/", "/metrics", "/metrics/"):
        assert get(server.url + path, api_key="k1") == "a 1\n"
    assert {headers["authorization"] for _, headers in server.asked} == {"Bearer k1"}
    get(server.url.replace("//", "//me:p%40ss@"), api_key="k1")
    assert server.asked[-1][1]["authorization"] == "Basic bWU6cEBzcw=="
    address = parse_address(server.url.replace("//", "//me:pass@") + "/metrics?token=abc")
    assert address.shown == f"{server.url}/metrics"
    assert address.target == "/metrics?token=abc"


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://h/", "http://", "http://h:99999/", "http://h/a b", ""]
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(UsageError, match="no address"):
        parse_address(url)


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        (Answer(status=404), Refused, "--enable-metrics"),
        (Answer(status=401), Refused, "OPSUITE_API_KEY"),
        (Answer(status=403), Refused, "OPSUITE_API_KEY"),
        (Answer(status=500), Unreachable, "status 500"),
        (Answer(status=302, headers={"Location": "file:///etc/passwd"}), Refused, "not followed"),
        (Answer(status=302, headers={"Location": "http://127.0.0.1:1/m"}), Refused, "not followed"),
        (Answer(status=302, headers={"Location": "/metrics"}), Refused, "in a circle"),
        (Answer(body=b"vllm:x 1\n", declared=100), DataError, "cut off"),
        (Answer(declared=MOST_BYTES + 1), DataError, "16 MiB"),
        (Answer(body=b"\xff\xfe"), DataError, "no UTF-8"),
    ],
)
def test_what_is_wrong_is_said(
    server: Server, answer: Answer, error: type[OpsuiteError], told: str
) -> None:
    server.answers["/metrics"] = answer
    with pytest.raises(error, match=told) as caught:
        get(f"http://u:secret@127.0.0.1:{server.server_port}")
    assert "secret" not in str(caught.value)
    assert type(caught.value) is error


def test_an_endless_body_and_one_that_drips(server: Server) -> None:
    """Without a length it is cut at 16 MiB; a byte now and then does not keep us waiting."""
    server.answers["/metrics"] = Answer(body=b"x" * (MOST_BYTES + 10), declared=-1)
    with pytest.raises(DataError, match="16 MiB"):
        get(server.url)
    server.answers["/metrics"] = Answer(body=b"a 1\n" * 100, pause_s=0.05)
    began = time.monotonic()
    with pytest.raises(TimedOut, match="no whole answer"):
        get(server.url, timeout_s=0.3)
    assert time.monotonic() - began < 1.0


def test_nobody_there(server: Server) -> None:
    server.stop()
    with pytest.raises(Unreachable, match="no server answers"):
        get(server.url)
    server.__init__()  # type: ignore[misc] # for the fixture to stop


# -- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "vllm:num_requests_running{model_name= 1\n",
        "vllm:num_requests_running one\n",
        'vllm:num_requests_running{model_name="a" 1\n',
        "vllm:num_requests_running",
        'vllm:num_requests_running{a="' + "\\" * 5000 + '"} 1\n',
        "vllm:num_requests_running 1\n" * 20_001,
    ],
)
def test_bad_text_is_an_error_and_soon(text: str) -> None:
    began = time.monotonic()
    with pytest.raises(DataError):
        read_exposition(text)
    assert time.monotonic() - began < 2.0


def test_text_of_somebody_else_is_nobodys() -> None:
    assert read_exposition("") is None
    assert read_exposition("<html>\nnode_load1 0.5\n") is None
    odd = read_exposition('junk{ 1\nvllm:num_requests_running{model_name="\x1b[31m"} NaN\n')
    assert odd is None  # the only value is none
    odd = read_exposition('vllm:num_requests_running{model_name="\x1b[31mred"} 1\n')
    assert odd is not None
    assert odd.models() == {"?[31mred"}


def test_ranks_that_tell_the_same_count_once() -> None:
    """SGLang's copies (tp) count once, its replicas (dp) add up, and priorities are parts."""
    text = "".join(
        f'sglang:num_running_reqs{{model_name="q",dp_rank="{dp}",tp_rank="{tp}",priority="{p}"}}'
        f" {dp + 2}\n"
        for dp in range(2)
        for tp in range(2)
        for p in ("", "0")
    )
    text += 'sglang:token_usage{model_name="q",dp_rank="0"} 0.2\n'
    text += 'sglang:token_usage{model_name="q",dp_rank="1"} 0.4\n'
    exposition = read_exposition(text)
    assert exposition is not None
    (interval,) = ServerProgress(most_models=8).take(exposition, 0.0).intervals
    assert interval.model == "q"
    assert interval.gauges == {"running": 5.0, "kv_usage": pytest.approx(0.3)}
    assert interval.seconds is None


def test_newer_names_and_those_of_ray() -> None:
    for prefix in ("vllm:", "vllm_", "ray_vllm:", "ray_vllm_"):
        exposition = read_exposition(
            f"{prefix}prompt_tokens_total 5\n{prefix}num_requests_running 2\n"
        )
        assert exposition is not None
        assert exposition.dialect.source == "vllm"
        assert set(exposition.series) == {"prompt_tokens", "num_requests_running"}


# -- intervals ----------------------------------------------------------------------------------


def take(progress: ServerProgress, text: bytes | str, at_s: float) -> Any:
    exposition = read_exposition(text if isinstance(text, str) else text.decode())
    assert exposition is not None
    return progress.take(exposition, at_s)


def test_what_came_between_two_readings() -> None:
    vllm, progress = Vllm(engines=2), ServerProgress(most_models=8)
    vllm.request(0.2, 5)
    first = take(progress, vllm.text(), 10.0)
    assert first.intervals[0].counts == {}
    assert first.intervals[0].latencies == {}
    vllm.request(0.2, 5)
    vllm.request(0.05, 3, engine=1, reason="abort")
    vllm.request(7.0, 2, engine=1, reason="error")
    (interval,) = take(progress, vllm.text(), 12.0).intervals
    assert interval.seconds == 2.0
    assert interval.counts == {
        **{"prompt_tokens": 21, "generation_tokens": 10, "preemptions": 0},
        **{"finished": 1, "cancelled": 1, "errors": 1},
    }
    ttft = interval.latencies["ttft_s"]
    assert (ttft.low, ttft.high, ttft.counts) == ((0.01, 0.1, 2.5), (0.1, 0.25, None), (1, 1, 1))
    assert ttft.sum_s == pytest.approx(7.25)
    (idle,) = take(progress, vllm.text(), 13.0).intervals
    assert idle.latencies == {}
    assert idle.counts["finished"] == 0


def test_a_restart_is_no_negative_rate() -> None:
    """Also one that only the process's start time tells; and a series missing once is none."""
    progress = ServerProgress(most_models=8)
    text = 'vllm:prompt_tokens_total{{engine="0"}} {}\nprocess_start_time_seconds {}\n'
    assert not take(progress, text.format(100, 1000), 0.0).restarted
    fell = take(progress, text.format(30, 1000), 1.0)
    assert fell.restarted
    assert fell.intervals[0].counts == {"prompt_tokens": 30}
    outrun = take(progress, text.format(90, 2000), 2.0)
    assert outrun.restarted
    assert outrun.intervals[0].counts == {"prompt_tokens": 90}
    missing = take(progress, "vllm:num_requests_running 0\nprocess_start_time_seconds 2000\n", 3.0)
    assert not missing.restarted
    assert missing.intervals[0].counts == {}
    again = take(progress, text.format(95, 2000), 4.0)
    assert again.intervals[0].counts == {"prompt_tokens": 5}


# -- into the views -----------------------------------------------------------------------------


class Watched:
    """A watch that records into a run of its own, with a clock that tests move."""

    def __init__(self, home: Path, url: str) -> None:
        self.home = home
        self.now_s = 0.0
        address = parse_address(url)
        self.watch = ServerWatch(
            address.shown, fetch=lambda: fetch(address, timeout_s=2.0), clock=lambda: self.now_s
        )

    def begin(self) -> None:
        first = self.watch.meet()
        self.run = RunDirectory.create(
            self.home, name="scraped", kind="serving", command=[], config={}, world_size=1
        )
        self.watch.begin(first, self._open)

    def look(self, seconds: float = 1.0) -> Any:
        self.now_s += seconds
        return self.watch.look()

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with Store.open(self.home) as store:
            return store.rows(sql)

    def _open(self) -> Any:
        identity = Identity(
            run_id=self.run.run_id,
            role="server",
            rank=0,
            world_size=1,
            host="here",
            coordinates={},
        )
        return open_recorder(self.run.spool, identity)


@pytest.fixture
def watch(home: Path) -> Iterator[Callable[[str], Watched]]:
    made: list[Watched] = []

    def one(url: str) -> Watched:
        made.append(Watched(home, url))
        return made[-1]

    yield one
    for each in made:
        each.watch.close()


def test_vllm_in_the_views(server: Server, watch: Callable[[str], Watched]) -> None:
    vllm = Vllm(engines=2)
    vllm.running.labels(*vllm.engines[0]).set(3)
    vllm.running.labels(*vllm.engines[1]).set(2)
    vllm.usage.labels(*vllm.engines[0]).set(0.5)

    def say() -> None:
        server.answers["/metrics"] = Answer(body=vllm.text())

    say()
    watched = watch(server.url)
    watched.begin()
    watched.look(1.0)  # nothing came
    for _ in range(98):
        vllm.request(0.2, 3)
    vllm.request(0.7, 3, engine=1)
    vllm.request(9.0, 3, reason="error")
    say()
    watched.look(2.0)
    rows = watched.rows(
        "SELECT source, model, duration_s, running, waiting, kv_usage, prompt_tokens_per_s,"
        " generation_tokens_per_s, finished_per_s, errors_per_s, ttft_p50_s, ttft_p99_s,"
        " ttft_p50_within, ttft_p99_within, tpot_p99_within FROM serving" + BY_END
    )
    now = ("vllm", "meta/Llama")
    gauges = (5.0, 0.0, 0.25)
    nothing = (None, None, None, None, None)
    assert rows[0] == (*now, None, *gauges, None, None, None, None, *nothing)
    assert rows[1][:10] == (*now, 1.0, *gauges, 0.0, 0.0, 0.0, 0.0)
    assert rows[1][10:] == nothing  # no request came: no latency, and not 0
    assert rows[2][:10] == (*now, 2.0, *gauges, 350.0, 150.0, 50.0, 0.5)
    p50 = 0.1 + 0.15 * 50 / 98
    assert rows[2][10:] == (
        *(pytest.approx(p50), pytest.approx(1.0)),
        *([0.1, 0.25], [0.5, 1.0], [0.01, 0.05]),
    )
    answer = watched.rows("SELECT measure, requests, p50, p99_within FROM ttft('last')")
    assert answer == [
        ("ttft_s", 100, pytest.approx(p50), [0.5, 1.0]),
        ("itl_s", 200, pytest.approx(0.03), [0.01, 0.05]),
    ]
    [(requests, first, rest, both)] = watched.rows("FROM slo('last', ttft_s := 0.5)")
    assert (requests, both) == (100, None)
    assert first == pytest.approx(0.98 * 0.99)  # 98 of 100 in time, and an error is a miss
    assert rest == pytest.approx(0.99)


def test_percentiles_add_up_over_any_stretch(
    server: Server, watch: Callable[[str], Watched]
) -> None:
    """The median of all is of all requests, not the mean of the intervals' medians."""
    vllm = Vllm()
    server.answers["/metrics"] = Answer(body=vllm.text())
    watched = watch(server.url)
    watched.begin()
    for ttft, times in ((0.05, 9), (2.0, 1)):
        for _ in range(times):
            vllm.request(ttft, 1)
        server.answers["/metrics"] = Answer(body=vllm.text())
        watched.look()
    rows = watched.rows("SELECT requests, p50_within, p99_within FROM ttft('last')")
    assert rows == [(10, [0.01, 0.1], [1.0, 2.5])]
    assert watched.rows("FROM ttft('last', since_s := 3600)") == []


def test_it_goes_comes_back_and_restarts(server: Server, watch: Callable[[str], Watched]) -> None:
    vllm = Vllm()
    vllm.request(0.2, 3)
    server.answers["/metrics"] = Answer(body=vllm.text())
    watched = watch(server.url)
    watched.begin()
    for broken in (Answer(status=500), Answer(body=vllm.text()[:-20], declared=-1)):
        server.answers["/metrics"] = broken
        assert not watched.look().well
    fresh = Vllm()
    fresh.request(0.2, 2)
    server.answers["/metrics"] = Answer(body=fresh.text())
    sight = watched.look(7.0)
    assert sight.well
    assert len(sight.news) == 2
    events = watched.rows("SELECT name, attributes ->> 'why' FROM events ORDER BY at_ns")
    assert [event for event in events if event[0] != "server.latency"] == [
        ("server.seen", None),
        ("server.unreachable", "it answers with status 500"),
        ("server.restarted", None),
        ("server.back", None),
    ]
    rows = watched.rows("SELECT duration_s, generation_tokens_per_s FROM serving" + BY_END)
    assert rows[-1] == (9.0, pytest.approx(2 / 9))
    assert all(math.isfinite(rate) and rate >= 0 for _, rate in rows if rate is not None)


def test_sglang_and_tgi_in_the_same_view(server: Server, watch: Callable[[str], Watched]) -> None:
    """As they write them: SGLang's lazy counters, TGI's without a name's _total."""
    sglang = (
        'sglang:num_running_reqs{{model_name="q",tp_rank="0"}} 4.0\n'
        'sglang:num_queue_reqs{{model_name="q",tp_rank="0"}} 1.0\n'
        'sglang:token_usage{{model_name="q",tp_rank="0"}} 0.28\n'
    )
    later = (
        "# TYPE sglang:generation_tokens_total counter\n"
        'sglang:generation_tokens_total{{model_name="q"}} 500.0\n'
        'sglang:num_requests_total{{model_name="q"}} 10.0\n'
    )
    tgi = (
        "# TYPE tgi_request_success counter\ntgi_request_success {n}\n"
        "# TYPE tgi_queue_size gauge\ntgi_queue_size 3\n"
        "# TYPE tgi_request_mean_time_per_token_duration histogram\n"
        'tgi_request_mean_time_per_token_duration_bucket{{le="0.05"}} {n}\n'
        'tgi_request_mean_time_per_token_duration_bucket{{le="+Inf"}} {n}\n'
        "tgi_request_generated_tokens_sum {n}0\n"
    )
    for texts in ((sglang, sglang + later), (tgi, tgi)):
        server.answers["/metrics"] = Answer(body=texts[0].format(n=1).encode())
        watched = watch(server.url)
        watched.begin()
        server.answers["/metrics"] = Answer(body=texts[1].format(n=5).encode())
        watched.look(2.0)
    rows = watched.rows(
        "SELECT source, model, running, waiting, kv_usage, generation_tokens_per_s,"
        " finished_per_s, tpot_p50_within FROM serving WHERE duration_s > 0 ORDER BY source"
    )
    assert rows == [
        ("sglang", "q", 4.0, 1.0, 0.28, 250.0, 5.0, None),
        ("tgi", None, None, 3.0, None, 20.0, 2.0, [0.0, 0.05]),
    ]


def test_two_models_behind_one_address(server: Server, watch: Callable[[str], Watched]) -> None:
    text = "".join(
        f'vllm:num_requests_running{{model_name="{m}"}} {n}\n' for m, n in (("a", 1), ("b", 2))
    )
    server.answers["/metrics"] = Answer(body=text.encode())
    watched = watch(server.url)
    watched.begin()
    assert list(watched.watch.models) == ["a", "b"]
    assert watched.rows("SELECT model, running FROM serving ORDER BY model") == [
        ("a", 1.0),
        ("b", 2.0),
    ]


def test_https_with_a_certificate_that_is_trusted_or_not(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make a certificate")
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-keyout", key, "-out", certificate, "-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.answers["/metrics"] = Answer(body=b"a 1\n")
    url = server.url.replace("http:", "https:")
    with pytest.raises(Refused, match="not trusted"):
        get(url)
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    assert get(url) == "a 1\n"
    with pytest.raises(Unreachable, match=r"not an HTTP answer|no server answers"):
        get(server.url)
