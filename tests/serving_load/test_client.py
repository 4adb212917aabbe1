"""The load client beside servers that stream, refuse, break off or never answer."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from collectors.errors import Unreachable

pytest.importorskip("httpx", reason="needs the engine extra")
pytest.importorskip("msgspec", reason="needs the engine extra")

from opsuite.serving_load.answer import Question
from opsuite.serving_load.client import CompletionClient, ServedName, look
from opsuite.serving_load.open_loop import send
from opsuite.serving_load.process import Plan, replay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from opsuite.serving_load.answer import Answer

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
OURS = ServedName(model="tiny", takes_tokens=True, ignores_eos=True)
OTHERS = ServedName(model="gpt", takes_tokens=False, ignores_eos=False)


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"id": "cmpl-1", **fields}).encode() + b"\n\n"


def part(text: str, finish: str | None = None) -> bytes:
    return event(choices=[{"index": 0, "text": text, "finish_reason": finish}])


class Peer:
    """A server that answers every request with the same bytes, one after the other."""

    def __init__(self, *pieces: bytes, pause_s: float = 0.0, hangs: bool = False) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._pieces = pieces
        self._pause_s = pause_s
        self._hangs = hangs
        self._handling: list[asyncio.Task[Any] | None] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._handling.append(asyncio.current_task())
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client has gone, or the test is over
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (
                int(line[15:])
                for line in head.lower().split(b"\r\n")
                if line[:15] == b"content-length:"
            ),
            0,
        )
        self.bodies.append(json.loads(await reader.readexactly(length)) if length else {})
        for piece in self._pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(self._pause_s)
        if self._hangs:
            await reader.read()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self.handle, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in self._handling:
                assert task is not None
                task.cancel()
                await task


def run(peer: Peer, talk: Callable[[CompletionClient], Awaitable[Any]]) -> Any:
    async def meet() -> Any:
        async with peer.listening() as url, CompletionClient(url) as client:
            return await talk(client)

    return asyncio.run(meet())


def ask(peer: Peer, **options: Any) -> Answer:
    answer: Answer = run(peer, lambda client: client.ask({"prompt": "hi"}, **options))
    return answer


def test_every_token_has_its_time_and_usage_is_the_servers() -> None:
    usage = event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 3})
    done = b"data: [DONE]\n\n"
    peer = Peer(HEAD + part("a"), part("b"), part("", "length"), usage + done, pause_s=0.05)
    answer = ask(peer)
    assert (answer.text, answer.problem, answer.status) == ("ab", "", 200)
    assert (answer.prompt_tokens, answer.tokens, answer.id) == (7, 3, "cmpl-1")
    gaps = [b - a for a, b in zip(answer.token_s, answer.token_s[1:], strict=False)]
    assert len(gaps) == 2
    assert min(gaps) > 0.03
    assert answer.ttft_s is not None
    assert answer.tpot_s == pytest.approx(sum(gaps) / 2)
    assert peer.bodies[0]["stream_options"] == {"include_usage": True}


def test_events_may_be_split_anywhere() -> None:
    stream = HEAD + part("ä") + part("b", "stop") + b"data: [DONE]\n\n"
    for cut in range(len(HEAD), len(stream), 17):
        answer = ask(Peer(stream[:cut], stream[cut:], pause_s=0.001))
        assert (answer.text, answer.problem) == ("äb", "")


def test_what_goes_wrong_is_told_and_what_came_before_is_kept() -> None:
    broken = ask(Peer(HEAD + part("a")))
    assert (broken.text, broken.problem) == ("a", "the server broke off")
    refused = ask(Peer(b"HTTP/1.1 429 Busy\r\nContent-Length: 4\r\n\r\nfull"))
    assert (refused.status, refused.problem) == (429, "the server answered 429: full")
    failed = ask(Peer(HEAD + part("a") + event(error={"message": "oh"}) + b"data: [DONE]\n\n"))
    assert "oh" in failed.problem
    silent = ask(Peer(hangs=True), give_up_s=0.2)
    assert (silent.problem, silent.token_s) == ("it did not end in time", ())
    late = ask(Peer(HEAD + part("a"), hangs=True), give_up_s=0.3)
    assert (late.text, late.problem) == ("a", "it did not end in time")


def test_requests_are_sent_at_their_times_though_no_answer_comes() -> None:
    times = [0.05 * number for number in range(20)]
    questions = [Question(at_s=at_s, prompt="hi", max_tokens=4) for at_s in times]
    peer = Peer(hangs=True)
    done = run(peer, lambda client: send(client, OTHERS, questions, patience_s=0.2))
    assert [answer.problem for answer in done.answers] == ["it did not end in time"] * 20
    late = [answer.sent_s - at_s for answer, at_s in zip(done.answers, times, strict=True)]
    assert min(late) >= 0
    assert max(late) < 0.5  # with an answer awaited first, the last would be 4 s late
    assert len(peer.bodies) == 20
    assert "ignore_eos" not in peer.bodies[0]


def test_the_client_of_another_process_says_what_it_took() -> None:
    async def meet() -> tuple[Any, Peer]:
        peer = Peer(HEAD + part("a", "stop") + b"data: [DONE]\n\n")
        async with peer.listening() as url:
            question = Question(at_s=0.1, prompt=(3, 4), max_tokens=2)
            plan = Plan(url=url, served=OURS, questions=(question,), patience_s=5)
            return await asyncio.to_thread(replay, plan), peer

    done, peer = asyncio.run(meet())
    [answer] = done.answers
    assert answer.text == "a"
    assert 0.1 <= answer.sent_s < answer.token_s[0] <= done.end_s
    assert 0 < done.client_cpu_s < done.end_s
    body = peer.bodies[0]
    assert (body["prompt"], body["max_tokens"], body["ignore_eos"]) == ([3, 4], 2, True)


def test_where_nobody_serves_a_model_is_told() -> None:
    with pytest.raises(Unreachable, match="no model is served"):
        look("http://127.0.0.1:9")
    with pytest.raises(Unreachable, match="no model is served"):
        run(Peer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), lambda client: client.served())
