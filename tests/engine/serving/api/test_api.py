"""The API when its engine is busy, slow, failing or stopping."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("torch", reason="needs the engine extra")
httpx = pytest.importorskip("httpx", reason="needs the test extra")

from engine.models.tokenizer import train_tokenizer  # noqa: E402
from engine.serving import api, event_stream  # noqa: E402
from engine.serving.api.completions import CompletionPlan, ServedModel  # noqa: E402
from engine.serving.api.detokenizer import Vocabulary  # noqa: E402
from engine.serving.api.protocol import CompletionRequest  # noqa: E402
from engine.serving.api.streams import Streams  # noqa: E402
from engine.serving.request import Delta, FinishReason, GenerationRequest  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

TOKENIZER = train_tokenizer(["some text"], 270)
MODEL = ServedModel(
    name="fake",
    tokenizer=TOKENIZER,
    vocabulary=Vocabulary(TOKENIZER),
    vocab_size=270,
    max_len=64,
)


class FakeEngine:
    """Answers each request with one piece of text and then, unless it hangs, an end."""

    def __init__(self, streams: Streams, finish: FinishReason | None) -> None:
        self.alive = True
        self.cancelled: set[int] = set()
        self._streams = streams
        self._finish = finish

    def submit(self, requests: Iterable[GenerationRequest]) -> None:
        for request in requests:
            pieces = [Delta(number=request.number, text="piece", tokens=1)]
            if self._finish:
                pieces.append(Delta(number=request.number, text="", tokens=1, finish=self._finish))
            self._streams.deliver(pieces)

    def cancel(self, numbers: Iterable[int]) -> None:
        self.cancelled |= set(numbers)
        self._streams.deliver(
            [Delta(number=n, text="", tokens=1, finish=FinishReason.CANCELLED) for n in numbers]
        )


class Api:
    """The application over a fake engine, and a client of it."""

    def __init__(self, finish: FinishReason | None, max_open: int = 4) -> None:
        self.streams = Streams(max_open=max_open)
        self.engine = FakeEngine(self.streams, finish)
        self.streams.attach(self.engine)
        app = api.create_api(MODEL, self.streams)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://localhost")

    async def ask(self, **fields: Any) -> Any:
        body = {"model": "fake", "prompt": "x"} | fields
        return await self.client.post("/v1/completions", json=body)


def test_a_full_queue_and_a_stopping_server_say_so() -> None:
    async def scenario() -> None:
        api = Api(finish=None)
        waiting = asyncio.create_task(api.ask(n=4))
        while api.streams.open_requests < 4:
            await asyncio.sleep(0)
        refused = await api.ask()
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "queue_full"
        api.streams.close()
        assert (await api.ask()).status_code == 503
        assert (await api.client.get("/health")).status_code == 503
        api.streams.cancel_all()
        answer = await waiting
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "stopping"
        assert api.streams.open_requests == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("finish", "status"), [(FinishReason.ERROR, 500), (FinishReason.CANCELLED, 503)]
)
def test_a_request_given_up_by_the_engine_is_an_error_streamed_or_not(
    finish: FinishReason, status: int
) -> None:
    async def scenario() -> None:
        api = Api(finish)
        answer = await api.ask(n=2)
        assert answer.status_code == status
        error = answer.json()["error"]
        streamed = await api.ask(n=2, stream=True)
        events = [line.removeprefix("data: ") for line in streamed.text.split("\n\n") if line]
        assert json.loads(events[0])["choices"][0]["text"] == "piece"
        assert json.loads(events[-2]) == {"error": error}
        assert events[-1] == "[DONE]"
        assert api.streams.open_requests == 0

    asyncio.run(scenario())


def test_the_requests_of_a_failed_response_are_withdrawn() -> None:
    async def scenario() -> None:
        api = Api(finish=None)
        asking = asyncio.create_task(api.ask(n=3, stream=True))
        while api.streams.open_requests < 3:
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert len(api.engine.cancelled) == 3
        assert api.streams.open_requests == 0

    asyncio.run(scenario())


def test_a_client_that_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(60)

    async def scenario() -> None:
        monkeypatch.setattr(event_stream, "_SEND_TIMEOUT_S", 0.05)
        api = Api(finish=None)
        body = CompletionRequest(model="fake", prompt="x", n=2, stream=True)
        plan = CompletionPlan(body, MODEL, api.streams.next_number)
        response = event_stream.EventStream(plan, api.streams, usage=False)
        await asyncio.wait_for(response({"type": "http"}, never, send), timeout=5)
        assert len(api.engine.cancelled) == 2

    asyncio.run(scenario())


def test_a_body_that_never_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def drip() -> AsyncIterator[bytes]:
        yield b'{"model":'
        await asyncio.sleep(60)

    async def scenario() -> None:
        monkeypatch.setattr(api, "_BODY_TIMEOUT_S", 0.05)
        answer = await Api(FinishReason.STOP).client.post(
            "/v1/completions", content=drip(), headers={"content-type": "application/json"}
        )
        assert answer.status_code == 408

    asyncio.run(scenario())


def test_a_bug_is_a_500_without_internals(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError("secret path /home/user")

    async def scenario() -> None:
        monkeypatch.setattr(api, "_plan", bug)
        answer = await Api(FinishReason.STOP).ask()
        assert answer.status_code == 500
        assert answer.json()["error"]["message"] == "internal server error"

    asyncio.run(scenario())
