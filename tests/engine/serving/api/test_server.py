"""A real server's life: requests that come, leave and outlast it, its key, its end."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("torch", reason="needs the engine extra")
httpx = pytest.importorskip("httpx", reason="needs the test extra")
openai = pytest.importorskip("openai", reason="needs the test extra")

from collectors.query.direct import Store  # noqa: E402
from collectors.run import RunDirectory  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOOD = {"model": "tiny", "prompt": "x", "max_tokens": 5, "temperature": 0, "ignore_eos": True}


def test_the_process_that_clients_speak_to_has_no_torch() -> None:
    program = "import sys, engine.serving.server; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def send_raw(server: Any, data: bytes) -> socket.socket:
    connection = socket.create_connection(server.address, timeout=5)
    connection.sendall(data)
    return connection


def post_bytes(**fields: Any) -> bytes:
    body = json.dumps(GOOD | fields).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    head += "Authorization: Bearer secret-key\r\nContent-Type: application/json\r\n\r\n"
    return head.encode() + body


def test_clients_that_leave_at_any_moment_free_what_they_held(server: Any) -> None:
    whole = post_bytes(max_tokens=120, n=20)
    streamed = post_bytes(max_tokens=120, n=20, stream=True)
    before = server.metrics()
    for data in (b"", b"POST /v1", whole[:60], whole[:-5], whole, streamed):
        send_raw(server, data).close()
    for reads in (1, 500, 2000, 8000):
        connection = send_raw(server, streamed)
        read = 0
        while read < reads:
            read += len(connection.recv(reads - read))
        connection.close()
    silent = send_raw(server, post_bytes(max_tokens=120, n=4, stream=True))  # it never reads
    with contextlib.closing(silent):
        after = settled(server, before["request_success_total"] + 4 * 20 + 4)
    assert (after["num_requests_running"], after["num_requests_waiting"]) == (0, 0)
    assert (after["num_requests_swapped"], after["kv_cache_usage_perc"]) == (0, 0)
    generated = after["generation_tokens_total"] - before["generation_tokens_total"]
    assert generated < 60 * 120, "most were left before their end"
    with server.http() as http:
        assert http.post("/v1/completions", json=GOOD).status_code == 200


def settled(server: Any, ended: float) -> dict[str, float]:
    """Its metrics once so many requests have ended and the engine knows of it."""
    deadline = time.monotonic() + 60
    while True:
        now: dict[str, float] = server.metrics()
        if now["request_success_total"] >= ended and now["kv_cache_usage_perc"] == 0:
            return now
        assert time.monotonic() < deadline, "requests of clients that left still run"
        time.sleep(0.1)


def test_every_request_s_life_is_recorded_and_measured(server: Any, client: Any) -> None:
    before = server.metrics()
    answer = client.completions.create(
        model="tiny", prompt="recorded", max_tokens=7, extra_body={"ignore_eos": True}
    )
    new = {name: value - before[name] for name, value in server.metrics().items()}
    assert new["prompt_tokens_total"] == answer.usage.prompt_tokens
    assert new["generation_tokens_total"] == 7
    assert new["time_to_first_token_seconds_count"] == new["e2e_request_latency_seconds_count"] == 1
    assert new["inter_token_latency_seconds_count"] == 6
    first, whole = new["time_to_first_token_seconds_sum"], new["e2e_request_latency_seconds_sum"]
    assert whole == pytest.approx(first + new["inter_token_latency_seconds_sum"])
    with Store.open(server.home) as store:
        rows = store.rows(
            "SELECT prompt_tokens, output_tokens, queue_s, ttft_s, tpot_s FROM requests"
            " WHERE run_id = ? ORDER BY request DESC LIMIT 1",
            [server.run_id],
        )
    ((prompt_tokens, output_tokens, queue_s, ttft_s, tpot_s),) = rows
    assert (prompt_tokens, output_tokens) == (answer.usage.prompt_tokens, 7)
    assert 0 <= queue_s <= ttft_s <= first
    assert 0 < tpot_s < 1


def test_ctrl_c_lets_requests_end_and_takes_no_more(
    start_server: Callable[..., Any], model_directory: Path, tmp_path: Path
) -> None:
    options = ("--host", "0.0.0.0")
    with start_server(tmp_path, model_directory, *options, key="secret-key") as server:
        url = f"http://127.0.0.1:{server.address[1]}"
        balancer = {"host": "balancer.example"}
        assert httpx.get(f"{url}/health", headers=balancer).status_code == 200
        with server.openai(base_url=f"{url}/v1") as client:
            running = client.completions.create(
                model="tiny",
                prompt="x",
                max_tokens=100,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            first = next(iter(running))
            server.process.send_signal(signal.SIGINT)
            rest = list(running)
        code, errors = server.join()
    assert first.choices
    assert rest[-1].choices[0].finish_reason == "length", "the running request was let to its end"
    assert code == 130
    assert "Traceback" not in errors
    run = RunDirectory.open(tmp_path, "last")
    assert (run.manifest.status, run.manifest.exit_code) == ("interrupted", 130)
    assert "secret-key" not in (run.path / "run.json").read_text()


def test_what_was_recorded_survives_sigkill(
    start_server: Callable[..., Any], model_directory: Path, tmp_path: Path
) -> None:
    with start_server(tmp_path, model_directory) as server:
        httpx.post(f"{server.url}/v1/completions", json=GOOD).raise_for_status()
        code, _ = server.end(signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert RunDirectory.open(tmp_path, "last").manifest.status == "lost"
    with Store.open(tmp_path) as store:
        assert len(store.rows("SELECT * FROM events WHERE name = 'request.finished'")) == 1
