"""What hostile clients try. Each is refused, and the server is as it was: a good request gets the
same bytes as before, and /health answers within a second.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("torch", reason="needs the engine extra")
httpx = pytest.importorskip("httpx", reason="needs the test extra")

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.alone

TEXT = {"model": "tiny", "prompt": "x", "max_tokens": 5, "temperature": 0, "ignore_eos": True}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}
CHAT |= {"temperature": 0, "ignore_eos": True}
COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
CLOSED = 0  # without an answer


@dataclass(frozen=True)
class Attack:
    """Bytes that are sent, and the statuses that may be the answer."""

    name: str
    raw: bytes
    status: tuple[int, ...]


def http(
    target: str = COMPLETIONS,
    body: bytes = b"",
    *extra: str,
    method: str = "POST",
    host: str = "Host: localhost",
    key: str | None = "Bearer secret-key",
    kind: str | None = "application/json",
    length: bool = True,
) -> bytes:
    """A request as it goes over the wire."""
    lines = [f"{method} {target} HTTP/1.1", *extra]
    lines += [host] if host else []
    lines += [f"Authorization: {key}"] if key else []
    lines += [f"Content-Type: {kind}"] if kind else []
    lines += [f"Content-Length: {len(body)}"] if length else []
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunked(*pieces: bytes) -> bytes:
    head = http("/v1/completions", b"", "Transfer-Encoding: chunked", length=False)
    return head + b"".join(pieces)


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return f"{len(data):x}".encode() + extension + b"\r\n" + data + b"\r\n"


def text(name: str, status: int = 400, **fields: Any) -> Attack:
    return Attack(name, http(COMPLETIONS, json.dumps(TEXT | fields).encode()), (status,))


def chat(name: str, status: int = 400, **fields: Any) -> Attack:
    return Attack(f"chat: {name}", http(CHATS, json.dumps(CHAT | fields).encode()), (status,))


def raw(name: str, body: bytes, status: int = 400) -> Attack:
    return Attack(name, http(COMPLETIONS, body), (status,))


def said(content: Any, role: str = "user", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content, **more}]}


IMAGE = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data"}}
BIASES = {str(number): 1 for number in range(5000)}
MULTIPLIED = [
    text("n", n=129),
    text("n, huge", n=10**30),
    text("prompts x n", prompt=["x", "y"], n=100),
    text("best_of more than n", best_of=20),
    text("best_of, huge", best_of=10**9),
    text("max_tokens", max_tokens=10**9),
    text("max_tokens, huge", max_tokens=10**40),
    text("max_tokens of none", max_tokens=0),
    text("max_tokens of a text", max_tokens="5"),
    text("max_tokens of a truth", max_tokens=True),
    text("logprobs", logprobs=21),
    text("logprobs, huge", logprobs=10**30),
    chat("top_logprobs", logprobs=True, top_logprobs=21),
    chat("top_logprobs without logprobs", top_logprobs=2),
    text("logit_bias of many", logit_bias=BIASES),
    text("logit_bias, huge", logit_bias={"5": 1e300}),
    text("logit_bias of no token", logit_bias={"99999": 1}),
    text("logit_bias of no number", logit_bias={"5x": 1}),
    text("logit_bias twice in other words", logit_bias={"5": 1, "05": 2}),
    text("stop, five", stop=["a", "b", "c", "d", "e"]),
    text("stop, a hundred thousand", stop=["s"] * 100_000),
    text("stop, empty", stop=""),
    text("stop, long", stop="s" * 257),
    text("stop_token_ids of many", stop_token_ids=list(range(65))),
    text("stop_token_ids of no token", stop_token_ids=[10**6]),
    text("prompts of many", prompt=["x"] * 65),
    text("prompt of truths", prompt=[True] * 100_000),
    text("prompt of nothing", prompt=[[]]),
    text("prompt of an object", prompt={"a": 1}),
    text("prompt of texts and numbers", prompt=[1, "x"]),
    text("prompt of no token", prompt=[10**6]),
    text("prompt of a negative token", prompt=[-1]),
    text("prompt longer than the context", prompt="x" * 5000),
    text("prompt of a megabyte", prompt="a b" * 330_000),
    text("prompt of one long word", prompt="a" * 1_000_000),
    text("cache_salt, long", cache_salt="s" * 257),
    text("priority that does not count", priority=-1),
    text("priority, huge", priority=-(10**12)),
    text("seed", seed=2**64),
    text("user, long", user="u" * 1000),
    chat("messages of many", messages=[{"role": "user", "content": ""}] * 1025),
    chat("messages of none", messages=[]),
    chat("parts of many", **said([{"type": "text", "text": ""}] * 257)),
    chat("a long chat", **said("x" * 500_000)),
]
VALUES = [
    text("temperature below", temperature=-0.1),
    text("temperature above", temperature=2.1),
    raw("temperature, NaN", b'{"model":"tiny","prompt":"x","temperature":NaN}'),
    raw("temperature, infinite", b'{"model":"tiny","prompt":"x","temperature":-Infinity}'),
    raw("temperature, overflowing", b'{"model":"tiny","prompt":"x","temperature":1e999}'),
    raw("top_p, many digits", b'{"model":"tiny","prompt":"x","top_p":' + b"9" * 900 + b"}"),
    raw("n, 500 000 digits", b'{"model":"tiny","prompt":"x","n":' + b"9" * 500_000 + b"}"),
    text("top_p", top_p=1.1),
    text("top_k", top_k=-2),
    text("min_p", min_p=1.1),
    text("presence_penalty", presence_penalty=2.1),
    text("frequency_penalty", frequency_penalty=-2.1),
    text("repetition_penalty of none", repetition_penalty=0),
    text("stream of a text", stream="yes"),
    text("stream_options without stream", stream_options={"include_usage": True}),
    text("obfuscation", stream=True, stream_options={"include_obfuscation": True}),
    text("suffix", suffix="end"),
    text("echo with logprobs", echo=True, logprobs=1),
    text("a parameter of nobody", chat_template="{{ 1 }}"),
    raw("a long name of a parameter", json.dumps(TEXT | {"x" * 100_000: 1}).encode()),
    raw("many parameters", json.dumps(TEXT | {f"k{i}": i for i in range(40_000)}).encode()),
    text("half a surrogate", prompt="\ud800"),
    text("half a surrogate in a stop string", stop="\udfff"),
    text("half a surrogate in the model's name", model="\ud800"),
    raw("half a surrogate in a name", json.dumps(TEXT | {"\ud800": 1}).encode()),
    raw("a key twice", b'{"model":"tiny","prompt":"x","max_tokens":1,"max_tokens":100000}'),
    raw("a key twice inside", b'{"model":"tiny","prompt":"x","logit_bias":{"5":1,"5":2}}'),
    raw("lists in lists", b'{"model":"tiny","prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    raw("objects in objects", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    raw("open lists", b"[" * 1_000_000),
    raw("no JSON", b"{"),
    raw("nothing", b""),
    raw("a list", b"[1]"),
    raw("null", b"null"),
    raw("more than one value", b"{}{}"),
    raw("invalid UTF-8", b'{"model":"tiny","prompt":"\xff\xfe"}'),
    raw("overlong UTF-8", b'{"model":"tiny","prompt":"\xc0\x80"}'),
    raw("UTF-16", json.dumps(TEXT).encode("utf-16")),
    raw("a byte order mark", b"\xef\xbb\xbf" + json.dumps(TEXT).encode()),
]
CHATTED = [
    chat("a template of the client's", chat_template="{{ messages }}"),
    chat("arguments for the template", chat_template_kwargs={"a": 1}),
    chat("a role that is a template", **said("x", role="{{ 7 * 7 }}")),
    chat("a role of tools", **said("x", role="tool")),
    chat("an image", **said([IMAGE])),
    chat("a part of no kind", **said([{"text": "x"}])),
    chat("no content", **said(None)),
    chat("a message with more in it", **said("x", __class__="y")),
    chat("calls of tools", **said("x", role="assistant", tool_calls=[{"id": "1"}])),
    chat("tools", tools=[{"type": "function", "function": {"name": "f"}}]),
    chat("functions", functions=[{"name": "f"}], function_call="auto"),
    chat("a JSON schema", response_format={"type": "json_schema", "json_schema": {}}),
    chat("two limits", max_completion_tokens=7),
    chat("a prompt", prompt="x"),
    chat("what the template refuses", **said("refuse")),
    chat("half a surrogate", **said("\ud800")),
]
ROUTED = [
    text("a path as a model", 404, model="../../etc/passwd"),
    text("a very long model", 400, model="m" * 5000),
    text("another model", 404, model="tiny2"),
    Attack("a path as a model's URL", http("/v1/models/../../etc/passwd", method="GET"), (404,)),
    Attack("an encoded path", http("/v1/models/%2e%2e%2f%2e%2e%2fetc", method="GET"), (404,)),
    Attack("an encoded NUL", http("/v1/models/tiny%00", method="GET"), (404,)),
    Attack("a bad encoding", http("/v1/models/%ff%fe%", method="GET"), (404,)),
    Attack("a full URL", http("http://evil.example/v1/models", method="GET"), (404,)),
    Attack("documentation", http("/docs", method="GET"), (404,)),
    Attack("two slashes", http("//v1/models", method="GET"), (404,)),
    Attack("a slash at the end", http("/v1/completions/", b"{}"), (404,)),
    Attack("another method", http(COMPLETIONS, method="GET"), (405,)),
    Attack("DELETE", http("/health", method="DELETE"), (405,)),
    Attack("TRACE", http("/health", method="TRACE"), (405,)),
    Attack("CONNECT", http("localhost:22", method="CONNECT"), (404, 405)),
    Attack("a long URL", http("/" + "a" * 100_000, method="GET"), (400, 404, CLOSED)),
    Attack("text", http(COMPLETIONS, json.dumps(TEXT).encode(), kind="text/plain"), (415,)),
    Attack("no kind", http(COMPLETIONS, json.dumps(TEXT).encode(), kind=None), (415,)),
    Attack("a form", http(body=b"model=tiny", kind="application/x-www-form-urlencoded"), (415,)),
    Attack("JSON of a kind", http(CHATS, b"{}", kind="application/json-patch+json"), (415,)),
    Attack("parts", http(body=b"--x", kind="multipart/form-data; boundary=x"), (415,)),
]
WIRED = [
    Attack("a large body", http(body=b" " * (2 << 20)), (413,)),
    Attack("a large body in chunks", chunked(*[chunk(b" " * 65_536)] * 40), (413,)),
    Attack("a chunk of no size", chunked(b"zz\r\n"), (400,)),
    Attack("a chunk of negative size", chunked(b"-5\r\nhello\r\n"), (400,)),
    Attack("a chunk of enormous size", chunked(b"f" * 40 + b"\r\n"), (400,)),
    Attack("a chunk's long name", chunked(chunk(b"{", b";" + b"a" * 200_000)), (400, CLOSED)),
    Attack("two lengths", http("/health", b"", "Content-Length: 5", method="GET"), (400,)),
    Attack(
        "a length of no number", http("/health", b"", "Content-Length: x", length=False), (400,)
    ),
    Attack(
        "a length and chunks",
        http("/health", b"", "Transfer-Encoding: gzip", method="GET"),
        (400, 501),
    ),
    Attack("many headers", http("/health", b"", *["X: y"] * 30_000, method="GET"), (400, CLOSED)),
    Attack("a long header", http("/health", b"", "X: " + "y" * 900_000), (400, CLOSED)),
    Attack("a header in two lines", http("/health", b"", "X: a\r\n\tb: c\x00"), (400,)),
    Attack("no host", http("/health", host="", method="GET"), (400,)),
    Attack("a wrong host", http("/health", host="Host: evil.example", method="GET"), (400,)),
    Attack("a host with our name in it", http("/", host="Host: localhost.evil.example"), (400,)),
    Attack("two hosts", http("/", b"", "Host: localhost", method="GET"), (400,)),
    Attack("garbage", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500, (400,)),
    Attack("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, CLOSED)),
    Attack("HTTP/0.9", b"GET /v1/models\r\n\r\n", (400,)),
    Attack(
        "a WebSocket",
        http("/health", b"", "Upgrade: websocket", "Connection: upgrade", method="GET"),
        (200, 400, 426),
    ),
]
KEYS = [
    None,
    "Bearer wrong",
    "Bearer",
    "secret-key",
    "Bearer secret-key2",
    "Bearer secret-ke",
    "Basic secret-key",
    "Bearer \xff\xfe",
    "Bearer secret-key, Bearer secret-key",
]
PATHS = [
    *(COMPLETIONS, CHATS, "/v1/models", "/v1/models/", "/v1/models/tiny", "//v1/models", "/"),
    *("/metrics", "/metrics/", "/openapi.json", "/docs", "/health/", "//health", "/health/../v1"),
    *("/v1/models?api_key=secret-key", "/nothing", "/HEALTH", "/health%2f..%2fmetrics"),
]
ATTACKS = [*MULTIPLIED, *VALUES, *CHATTED, *ROUTED, *WIRED]


def statuses(server: Any, data: bytes, *, timeout_s: float = 20.0) -> int:
    """The status of the answer; CLOSED without one."""
    with socket.create_connection(server.address, timeout=timeout_s) as connection:
        received = b""
        with contextlib.suppress(ConnectionError):
            sending = threading.Thread(target=send, args=(connection, data))
            sending.start()
            while b"\r\n\r\n" not in received and (piece := connection.recv(65_536)):
                received += piece
        connection.close()
        sending.join()
    if not received:
        return CLOSED
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"Traceback" not in body
    assert b"/work" not in body
    assert len(received) < 2000, "an answer does not repeat what was sent"
    return int(head.split()[1])


def send(connection: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # the server need not hear it all
        connection.sendall(data)


def good(server: Any) -> list[Any]:
    """What good requests get; /health first, within a second."""
    with server.http() as http:
        assert http.get("/health", timeout=1).json() == {"status": "ok"}
        return [
            http.post(path, json=body).json()["choices"]
            for path, body in ((COMPLETIONS, TEXT), (CHATS, CHAT))
        ]


@pytest.fixture(scope="module")
def expected(server: Any) -> list[Any]:
    return good(server)


def test_the_table_is_long() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 100


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_it_is_refused_and_nothing_changes(
    server: Any, expected: list[Any], attack: Attack
) -> None:
    assert statuses(server, attack.raw) in attack.status
    assert good(server) == expected


@pytest.mark.parametrize("key", KEYS)
def test_nothing_but_health_is_there_without_the_key(
    server: Any, expected: list[Any], key: str | None
) -> None:
    for method in ("GET", "POST", "PUT", "OPTIONS", "HEAD", "DELETE", "TRACE"):
        for path in PATHS:
            request = http(path, b"", method=method, key=key)
            assert statuses(server, request) == 401, (method, path)
    twice = http("/v1/models", b"", "Authorization: Bearer secret-key", method="GET")
    assert statuses(server, twice) == 401
    assert good(server) == expected


@contextlib.contextmanager
def connections(server: Any, count: int, data: bytes) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            connection = socket.create_connection(server.address, timeout=5)
            opened.append(stack.enter_context(connection))
            connection.sendall(data)
        yield opened


@pytest.mark.parametrize(
    ("count", "data"),
    [
        (200, b""),
        (200, b"POST /v1/completions HT"),
        (200, http(length=False)[:-2] + b"X: "),
        (200, http(body=json.dumps(TEXT).encode())[:-5]),
        (200, chunked(b"5\r\nhe")),
        (200, http(COMPLETIONS, b"", "Expect: 100-continue", "Content-Length: 9", length=False)),
        (20, http("/health", method="GET") * 20),
        (20, http(body=json.dumps(TEXT | {"max_tokens": 100, "stream": True}).encode())),
    ],
    ids=["silent", "line", "head", "body", "chunk", "expecting", "pipelined", "unread"],
)
def test_clients_that_hang_about_are_in_nobody_s_way(
    server: Any, expected: list[Any], count: int, data: bytes
) -> None:
    """Fewer of those that are worked on: that many would be load, and no attack."""
    with connections(server, count, data) as opened:
        assert good(server) == expected
        for connection in opened[::2]:
            connection.close()
        assert good(server) == expected
    assert good(server) == expected


def test_health_is_answered_while_megabytes_are_read(server: Any, expected: list[Any]) -> None:
    """Long prompts, many stop strings and deep bodies are worked on beside the others."""
    named = {attack.name: attack for attack in ATTACKS}
    names = ("prompt of one long word", "prompt of a megabyte", "stop, a hundred thousand")
    threads = [
        threading.Thread(target=statuses, args=(server, named[name].raw))
        for name in (*names, "many parameters", "objects in objects")
    ]
    for thread in threads:
        thread.start()
    slowest = 0.0
    with server.http() as http:
        while any(thread.is_alive() for thread in threads):
            began = time.monotonic()
            assert http.get("/health").status_code == 200
            slowest = max(slowest, time.monotonic() - began)
    assert slowest < 1
    assert good(server) == expected


def test_after_all_this_nothing_is_held(server: Any, expected: list[Any]) -> None:
    deadline = time.monotonic() + 60
    while (metrics := server.metrics())["kv_cache_usage_perc"] > 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert metrics["num_requests_running"] == metrics["num_requests_waiting"] == 0
    assert metrics["engine_restarts_total"] == 0
    assert good(server) == expected
