"""A real server process and real clients: OpenAI's own, and hostile ones."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

pytest.importorskip("torch", reason="needs the engine extra")
httpx = pytest.importorskip("httpx", reason="needs the test extra")
openai = pytest.importorskip("openai", reason="needs the test extra")

from collectors.query.direct import Store  # noqa: E402
from collectors.run import RunDirectory  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-W", "error", "-m", "opsuite.cli.main", "serve"]


class ServerProcess:
    """``opsuite serve`` in a process of its own, ready."""

    def __init__(self, home: Path, model: Path, *options: str, **environment: str) -> None:
        self.home = home
        self.process = subprocess.Popen(
            [*COMMAND, str(model), "--port", "0", "--threads", "1", "--json", *options],
            env=os.environ
            | {"PYTHONPATH": str(ROOT), "OPSUITE_HOME": str(home), "OMP_NUM_THREADS": "1"}
            | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self.process.communicate()[1])
        ready = json.loads(line)
        self.url: str = ready["url"]
        self.run_id: str = ready["run"]
        self.address = ("127.0.0.1", int(self.url.rpartition(":")[2]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self, number: int) -> tuple[int, str]:
        """Send a signal; exit code and what was written to stderr."""
        self.process.send_signal(number)
        return self.join()

    def join(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors

    def requests(self, where: str = "true") -> list[tuple[Any, ...]]:
        with Store.open(self.home) as store:
            return store.rows(f"SELECT * FROM events WHERE name LIKE 'request.%' AND {where}")

    def last_samples(self) -> dict[str, float]:
        with Store.open(self.home) as store:
            rows = store.rows("SELECT name, arg_max(value, at_ns) FROM samples GROUP BY name")
        return {name: value for name, value in rows if name in ("running_requests", "kv_tokens")}


@pytest.fixture(scope="module")
def server(
    model_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("home")
    with ServerProcess(home, model_directory, "--max-batch", "4") as server:
        yield server
        code, errors = server.end(signal.SIGTERM)
    assert code == 0
    assert errors == f"serving tiny at {server.url}\n"
    assert RunDirectory.open(server.home, "last").manifest.status == "finished"


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def ask(client: Any, prompt: Any = "def attend(", **fields: Any) -> Any:
    fields = {"max_tokens": 12, "temperature": 0, "extra_body": {"ignore_eos": True}} | fields
    return client.completions.create(model="tiny", prompt=prompt, **fields)


def test_a_completion_and_its_usage(client: Any) -> None:
    answer = ask(client)
    assert (answer.object, answer.model) == ("text_completion", "tiny")
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"


def test_streaming_gives_the_same_text(client: Any) -> None:
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == ask(client).choices[0].text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 12
    assert all(c.usage is None for c in chunks[:-1])


def test_several_prompts_and_several_choices(client: Any) -> None:
    sampled = {"temperature": 1.0, "seed": 5, "n": 3}
    answer = ask(client, ["x = ", "y = "], **sampled)
    assert [choice.index for choice in answer.choices] == list(range(6))
    texts = [choice.text for choice in answer.choices]
    assert len(set(texts[:3])) == 3
    assert [choice.text for choice in ask(client, ["x = ", "y = "], **sampled).choices] == texts
    streamed = [""] * 6
    for chunk in ask(client, ["x = ", "y = "], stream=True, **sampled):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == texts


def test_stop_and_echo(client: Any) -> None:
    whole = ask(client).choices[0].text
    stop = whole[4:6]
    stopped = ask(client, stop=[stop]).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.text == whole[: whole.index(stop)]
    echoed = ask(client, echo=True).choices[0].text
    assert echoed == "def attend(" + whole
    assert "".join(c.choices[0].text for c in ask(client, echo=True, stream=True)) == echoed


def test_token_prompts(client: Any) -> None:
    assert ask(client, [5, 6, 7]).choices[0].text == ask(client, [[5, 6, 7]]).choices[0].text


def test_eight_at_once_get_what_each_gets_alone(client: Any) -> None:
    prompts = [f"{'def ' * n}f{n}(" for n in range(8)]
    alone = [ask(client, prompt).choices[0].text for prompt in prompts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda prompt: ask(client, prompt).choices[0].text, prompts))
    assert together == alone


GOOD = {"model": "tiny", "prompt": "x", "max_tokens": 5, "temperature": 0, "ignore_eos": True}
BAD_FIELDS: list[tuple[dict[str, Any], str | None]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": {"a": 1}}, "prompt"),
    ({"prompt": [1, "x"]}, "prompt"),
    ({"prompt": [True] * 100_000}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [10**6]}, "prompt"),
    ({"prompt": ["x"] * 65}, "prompt"),
    ({"prompt": "x" * 5000}, "prompt"),
    ({"prompt": "\ud800"}, None),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 10**9}, "max_tokens"),
    ({"max_tokens": 10**40}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"n": 100, "prompt": ["x", "y"]}, "n"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ({"stop": ""}, "stop"),
    ({"stop": "s" * 257}, "stop"),
    ({"seed": 2**64}, "seed"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, None),
    ({"best_of": 20}, None),
    ({"logprobs": 5}, None),
    ({"logit_bias": {"5": 100}}, None),
    ({"suffix": "end"}, None),
    ({"presence_penalty": 0.5}, None),
    ({"chat_template": "{{ 1 }}"}, "chat_template"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_FIELDS)
def test_bad_fields_are_refused(
    server: ServerProcess, fields: dict[str, Any], param: str | None
) -> None:
    body = json.dumps(GOOD | fields).encode()
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{server.url}/v1/completions", content=body, headers=headers)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert len(error["message"]) < 300
    assert "/" not in error["message"]


def test_bad_requests_are_refused_and_good_ones_get_the_same_bytes(server: ServerProcess) -> None:
    json_type = {"content-type": "application/json"}
    deep = b'{"model":"tiny","prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    many = json.dumps(GOOD | {f"k{i}": i for i in range(40_000)}).encode()
    bad: list[tuple[int, str, str, dict[str, Any]]] = [
        (404, "GET", "/", {}),
        (404, "GET", "/docs", {}),
        (404, "GET", "/openapi.json", {}),
        (404, "GET", "//v1/models", {}),
        (404, "POST", "/v1/completions/", {"json": GOOD}),
        (405, "GET", "/v1/completions", {}),
        (405, "DELETE", "/health", {}),
        (400, "GET", "/v1/models", {"headers": {"host": "evil.example"}}),
        (415, "POST", "/v1/completions", {"content": json.dumps(GOOD)}),
        (415, "POST", "/v1/completions", {"data": {"model": "tiny"}}),
        (400, "POST", "/v1/completions", {"content": b"", "headers": json_type}),
        (400, "POST", "/v1/completions", {"content": b"{", "headers": json_type}),
        (400, "POST", "/v1/completions", {"content": b"\xff\xfe", "headers": json_type}),
        (400, "POST", "/v1/completions", {"content": b"[1]", "headers": json_type}),
        (400, "POST", "/v1/completions", {"content": deep, "headers": json_type}),
        (400, "POST", "/v1/completions", {"content": many, "headers": json_type}),
        (404, "POST", "/v1/completions", {"json": GOOD | {"model": "../../etc/passwd"}}),
        (413, "POST", "/v1/completions", {"content": b" " * (2 << 20), "headers": json_type}),
    ]
    with httpx.Client(base_url=server.url) as http:
        expected = http.post("/v1/completions", json=GOOD).json()["choices"]
        for status, method, path, fields in bad:
            answer = http.request(method, path, **fields)
            assert answer.status_code == status, (method, path)
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            assert http.get("/health", timeout=1).json() == {"status": "ok"}
            assert http.post("/v1/completions", json=GOOD).json()["choices"] == expected


def test_openai_raises_its_own_errors(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="context holds 128"):
        ask(client, max_tokens=200)
    with pytest.raises(openai.NotFoundError, match="no model of that name"):
        client.completions.create(model="other", prompt="x")


def send_raw(server: ServerProcess, data: bytes) -> socket.socket:
    connection = socket.create_connection(server.address, timeout=5)
    connection.sendall(data)
    return connection


def post_bytes(**fields: Any) -> bytes:
    body = json.dumps(GOOD | fields).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Content-Type: application/json\r\n\r\n" + body


def test_clients_that_leave_at_any_moment_free_what_they_held(server: ServerProcess) -> None:
    whole = post_bytes(max_tokens=120, n=20)
    streamed = post_bytes(max_tokens=120, n=20, stream=True)
    before = len(server.requests("name = 'request.arrived'"))
    for data in (b"", b"POST /v1", whole[:60], whole[:-5], whole, streamed):
        send_raw(server, data).close()
    for reads in (1, 500, 2000):
        connection = send_raw(server, streamed)
        read = 0
        while read < reads:
            read += len(connection.recv(reads - read))
        connection.close()
    silent = send_raw(server, post_bytes(max_tokens=120, n=4, stream=True))  # it never reads
    with contextlib.closing(silent):
        deadline = time.monotonic() + 15
        while not all_have_ended(server, before + 3 * 20 + 4):
            assert time.monotonic() < deadline, "requests of clients that left still run"
            time.sleep(0.2)
    assert server.last_samples() == {"running_requests": 0, "kv_tokens": 0}
    cancelled = server.requests("attributes ->> 'reason' = 'cancelled'")
    assert len(cancelled) > 30
    answer = httpx.post(f"{server.url}/v1/completions", json=GOOD)
    assert answer.status_code == 200


def all_have_ended(server: ServerProcess, at_least: int) -> bool:
    arrived = len(server.requests("name = 'request.arrived'"))
    return at_least <= arrived == len(server.requests("name = 'request.finished'"))


def test_every_request_s_life_is_recorded(server: ServerProcess, client: Any) -> None:
    answer = ask(client, "recorded", max_tokens=7)
    with Store.open(server.home) as store:
        rows = store.rows(
            "SELECT prompt_tokens, output_tokens, queue_s, ttft_s, tpot_s FROM requests"
            " WHERE run_id = ? ORDER BY request DESC LIMIT 1",
            [server.run_id],
        )
        spans = store.rows("SELECT DISTINCT name FROM spans ORDER BY name")
    ((prompt_tokens, output_tokens, queue_s, ttft_s, tpot_s),) = rows
    assert (prompt_tokens, output_tokens) == (answer.usage.prompt_tokens, 7)
    assert 0 <= queue_s <= ttft_s < 5
    assert 0 < tpot_s < 1
    assert spans == [("decode",), ("prefill",)]


def test_a_key_guards_every_route_and_ctrl_c_lets_requests_end(
    model_directory: Path, tmp_path: Path
) -> None:
    options = ("--host", "0.0.0.0")
    with ServerProcess(tmp_path, model_directory, *options, OPSUITE_API_KEY="secret-key") as server:
        url = f"http://127.0.0.1:{server.address[1]}"
        every_route_asks_for_the_key(url)
        with (
            openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0) as stranger,
            pytest.raises(openai.AuthenticationError),
        ):
            stranger.models.list()
        with openai.OpenAI(base_url=f"{url}/v1", api_key="secret-key", max_retries=0) as client:
            running = ask(client, max_tokens=100, stream=True)
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


def every_route_asks_for_the_key(url: str) -> None:
    routes = ["/v1/models", "/v1/models/", "//v1/models", "/docs", "/metrics", "/health/"]
    with httpx.Client(base_url=url) as http:
        for key in (None, "Bearer wrong", "secret-key", "Bearer secret-key2", "Basic secret-key"):
            for method in ("GET", "POST", "PUT", "OPTIONS"):
                for route in routes:
                    headers = {"authorization": key} if key else {}
                    answer = http.request(method, route, headers=headers)
                    assert answer.status_code == 401, (method, route, key)
        assert http.get("/health", headers={"host": "balancer.example"}).status_code == 200


def test_what_was_recorded_survives_sigkill(model_directory: Path, tmp_path: Path) -> None:
    with ServerProcess(tmp_path, model_directory) as server:
        httpx.post(f"{server.url}/v1/completions", json=GOOD).raise_for_status()
        code, _ = server.end(signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert RunDirectory.open(tmp_path, "last").manifest.status == "lost"
    assert len(server.requests("name = 'request.finished'")) == 1
