"""The API when its engine is busy, failing or stopping, and when its clients are slow.

The engine's end of the seam is scripted here, because a real one cannot be made to be slow or to
fail at a given token.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("torch", reason="needs the engine extra")
httpx = pytest.importorskip("httpx", reason="needs the test extra")

from engine.models.tokenizer import train_tokenizer  # noqa: E402
from engine.serving.api import application, connection, json_body  # noqa: E402
from engine.serving.api.completion_protocol import CompletionRequest  # noqa: E402
from engine.serving.api.completions import CompletionPlan  # noqa: E402
from engine.serving.api.detokenizer import Vocabulary  # noqa: E402
from engine.serving.api.http_server import HttpServer  # noqa: E402
from engine.serving.api.metrics import Metrics  # noqa: E402
from engine.serving.api.served_model import ServedModel  # noqa: E402
from engine.serving.api.streams import Streams  # noqa: E402
from engine.serving.request import FinishReason, GenerationRequest, Token  # noqa: E402
from engine.serving.sampling.parameters import SamplingParameters  # noqa: E402
from engine.serving.wire import Load  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

TOKENIZER = train_tokenizer(["some text"], 270)
MODEL = ServedModel(
    name="scripted",
    tokenizer=TOKENIZER,
    vocabulary=Vocabulary(TOKENIZER),
    vocab_size=270,
    max_len=1 << 20,
    end_tokens=frozenset(),
)
LETTER = TOKENIZER.get_vocab()["o"]


class ScriptedEngine:
    """Gives each request one token and then, unless it hangs, an end."""

    def __init__(self, finish: FinishReason | None, tokens: int = 1) -> None:
        self.alive = self.answers = True
        self.load = Load()
        self.restarts = 0
        self.cancelled: set[int] = set()
        self.finish = finish
        self.tokens = tokens
        self.streams: Streams

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        for request in requests:
            self.streams.deliver(
                Token(number=request.number, place=place, token=LETTER)
                for place in range(self.tokens)
            )
            if self.finish is FinishReason.CANCELLED:
                asyncio.get_running_loop().call_soon(self.streams.give_up, self.finish)
            elif self.finish:
                token = -1 if self.finish is FinishReason.ERROR else LETTER
                end = Token(
                    number=request.number, place=self.tokens, token=token, finish=self.finish
                )
                self.streams.deliver([end])

    def cancel(self, numbers: Sequence[int]) -> None:
        self.cancelled |= set(numbers)


class Api:
    """The application over a scripted engine, and a client of it."""

    def __init__(self, finish: FinishReason | None, *, max_open: int = 4, tokens: int = 1) -> None:
        self.engine = ScriptedEngine(finish, tokens)
        self.metrics = Metrics("scripted", self.engine)
        self.streams = Streams(self.engine, MODEL.vocabulary, self.metrics, max_open=max_open)
        self.engine.streams = self.streams
        self.app = application.create_api(MODEL, self.streams, self.metrics)
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://localhost")

    async def ask(self, **fields: Any) -> Any:
        body = {"model": "scripted", "prompt": "x"} | fields
        return await self.client.post("/v1/completions", json=body)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


def test_a_full_queue_and_a_stopping_server_say_so() -> None:
    async def scenario() -> None:
        api = Api(finish=None)
        waiting = asyncio.create_task(api.ask(n=4))
        await until(lambda: api.streams.open_requests == 4)
        refused = await api.ask()
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "queue_full"
        api.streams.close()
        assert (await api.ask()).status_code == 503
        assert (await api.client.get("/health")).status_code == 503
        api.streams.give_up(FinishReason.CANCELLED)
        answer = await waiting
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "stopping"
        assert api.streams.open_requests == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("finish", "status"), [(FinishReason.ERROR, 500), (FinishReason.CANCELLED, 503)]
)
def test_a_request_given_up_is_an_error_streamed_or_not(finish: FinishReason, status: int) -> None:
    async def scenario() -> None:
        api = Api(finish)
        answer = await api.ask(n=2)
        assert answer.status_code == status
        error = answer.json()["error"]
        streamed = await api.ask(n=2, stream=True)
        events = [line.removeprefix("data: ") for line in streamed.text.split("\n\n") if line]
        assert json.loads(events[0])["choices"][0]["text"] == "o"
        assert json.loads(events[-2]) == {"error": error}
        assert events[-1] == "[DONE]"
        assert api.streams.open_requests == 0

    asyncio.run(scenario())


def test_the_requests_of_a_failed_response_are_withdrawn() -> None:
    async def scenario() -> None:
        api = Api(finish=None)
        asking = asyncio.create_task(api.ask(n=3, stream=True))
        await until(lambda: api.streams.open_requests == 3)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert len(api.engine.cancelled) == 3
        assert api.streams.open_requests == 0

    asyncio.run(scenario())


def test_a_body_that_never_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def drip() -> AsyncIterator[bytes]:
        yield b'{"model":'
        await asyncio.sleep(60)

    async def scenario() -> None:
        monkeypatch.setattr(json_body, "_TIMEOUT_S", 0.05)
        answer = await Api(FinishReason.STOP).client.post(
            "/v1/completions", content=drip(), headers={"content-type": "application/json"}
        )
        assert answer.status_code == 408

    asyncio.run(scenario())


def test_a_bug_is_a_500_without_internals(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError("secret path /home/user")

    async def scenario() -> None:
        monkeypatch.setattr(application, "_completion", bug)
        answer = await Api(FinishReason.STOP).ask()
        assert answer.status_code == 500
        assert answer.json()["error"]["message"] == "internal server error"

    asyncio.run(scenario())


def test_without_a_template_chats_are_refused_and_priorities_where_they_do_not_count() -> None:
    async def scenario() -> None:
        api = Api(FinishReason.STOP)
        body = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}]}
        answer = await api.client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "no_chat_template"
        assert "chat_template.jinja" in answer.json()["error"]["message"]
        assert (await api.ask(priority=0)).status_code == 200
        assert (await api.ask(priority=1)).status_code == 400

    asyncio.run(scenario())


def test_every_parameter_reaches_the_engine() -> None:
    body = CompletionRequest.model_validate(
        {
            **{"model": "scripted", "prompt": [1, 2], "max_tokens": 9, "n": 2, "seed": -1},
            **{"temperature": 0.5, "top_p": 0.25, "top_k": -1, "min_p": 0.125, "logprobs": 4},
            **{"presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.5},
            **{"logit_bias": {"7": -3}, "stop_token_ids": [8], "stop": "s"},
            **{"priority": -5, "cache_salt": "salt"},
        }
    )
    model = replace(MODEL, priorities=True, end_tokens=frozenset({3}))
    plan = CompletionPlan(body, model, iter((10, 11)).__next__)
    first, second = plan.requests
    expected = GenerationRequest(
        number=10,
        id=plan.id,
        prompt=(1, 2),
        max_tokens=9,
        parameters=SamplingParameters(
            logit_bias={7: -3.0},
            repetition_penalty=1.5,
            frequency_penalty=-1.0,
            presence_penalty=1.0,
            temperature=0.5,
            min_p=0.125,
            top_k=0,
            top_p=0.25,
            seed=2**64 - 1,
            logprobs=4,
        ),
        ends=frozenset({3, 8}),
        urgency=-5,
        salt="salt",
    )
    assert first == expected
    assert (second.number, second.parameters.seed) == (11, 0)
    assert body.stops == ("s",)
    ignoring = CompletionRequest.model_validate(body.model_dump() | {"ignore_eos": True})
    (first, _) = CompletionPlan(ignoring, model, iter((12, 13)).__next__).requests
    assert first.ends == {8}


def test_what_multiplies_is_bounded_together() -> None:
    """Each of these is allowed by itself."""

    async def scenario() -> None:
        api = Api(FinishReason.STOP, max_open=128)
        assert (await api.ask(n=128)).status_code == 200
        for fields, param in (
            ({"prompt": ["x"] * 2, "n": 65}, "n"),
            ({"prompt": [5] * 40_000, "n": 120}, "n"),
            ({"n": 100, "max_tokens": 2000, "logprobs": 20}, "logprobs"),
        ):
            answer = await api.ask(**fields)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)

    asyncio.run(scenario())


# -- over sockets ---------------------------------------------------------------------------------


def over_sockets(
    api: Api, body: Callable[[int, asyncio.AbstractEventLoop], Awaitable[None]]
) -> None:
    """Run the body with a server on loopback, whose port it is given."""

    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            ready = asyncio.Event()
            server = HttpServer(api.app, api.streams, drain_s=0, on_ready=ready.set)
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            await ready.wait()
            await body(listening.getsockname()[1], asyncio.get_running_loop())
            server.should_exit = True
            await serving

    asyncio.run(scenario())


async def is_cut_off(loop: asyncio.AbstractEventLoop, client: socket.socket) -> bool:
    """Whether the other side hangs up."""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(5):
            while await loop.sock_recv(client, 1 << 16):
                pass
    return True


@pytest.mark.parametrize(
    "beginning",
    [b"", b"GET /health HT", b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-A: 1\r\n"],
)
def test_a_request_that_never_arrives_is_not_waited_for(
    beginning: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_ARRIVAL_S", 0.2)

    async def body(port: int, loop: asyncio.AbstractEventLoop) -> None:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setblocking(False)
            for byte in beginning:  # it does send, but ever so slowly
                await loop.sock_sendall(client, bytes([byte]))
                await asyncio.sleep(0.001)
            assert await is_cut_off(loop, client)

    over_sockets(Api(FinishReason.STOP), body)


def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its requests are withdrawn, and what it does not read is not kept."""
    monkeypatch.setattr(connection, "_STALL_S", 0.2)
    api = Api(None, tokens=20_000)
    content = json.dumps({"model": "scripted", "prompt": "x", "stream": True, "n": 2}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n"
    request = head.encode() + b"Content-Type: application/json\r\n\r\n" + content

    async def body(port: int, loop: asyncio.AbstractEventLoop) -> None:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port))
            client.setblocking(False)
            await loop.sock_sendall(client, request)
            async with asyncio.timeout(20):
                while len(api.engine.cancelled) < 2:
                    await asyncio.sleep(0.05)
            assert api.streams.open_requests == 0
            assert await is_cut_off(loop, client)

    over_sockets(api, body)
