"""The control socket: what people may ask, and that nothing else does anything."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from collectors.errors import Unreachable, UsageError
from engine.resilience.effects import Note
from engine.resilience.messages import Asked, Slow, Wish
from engine.supervision.control import ControlSocket, ask, read_news, socket_path
from engine.supervision.driver_state import DriverState
from engine.supervision.news import News

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_news_are_read_from_where_one_was(tmp_path: Path) -> None:
    news = News(generation=2)
    for step in range(3):
        news.add(Note(name="incident", facts={"step": step}))

    async def main() -> list[dict[str, Any]]:
        control = ControlSocket(tmp_path, lambda _: None, dict, news.after)
        await control.open()
        try:
            first = await asyncio.to_thread(read_news, tmp_path, 0)
            return first + await asyncio.to_thread(read_news, tmp_path, first[1]["number"])
        finally:
            control.close()

    found = asyncio.run(main())
    assert [item["facts"]["step"] for item in found] == [0, 1, 2, 2]


def test_what_the_driver_refuses_is_told(tmp_path: Path) -> None:
    def refuse(_: object) -> None:
        raise UsageError("no host node9 has joined the job")

    async def main() -> None:
        control = ControlSocket(tmp_path, refuse, dict)
        await control.open()
        try:
            await asyncio.to_thread(lambda: ask(tmp_path, "evict", host="node9"))
        finally:
            control.close()

    with pytest.raises(UsageError, match="node9"):
        asyncio.run(main())


def with_driver(run: Path, do: Callable[[], Any]) -> tuple[list[Asked | Slow], Any]:
    """What a driver was asked while ``do`` ran in a thread, and what that gave."""
    asked: list[Asked | Slow] = []

    async def main() -> Any:
        control = ControlSocket(run, asked.append, lambda: {"phase": "running"})
        await control.open()
        try:
            return await asyncio.to_thread(do)
        finally:
            control.close()

    return asked, asyncio.run(main())


def test_wishes_come_to_the_driver(tmp_path: Path) -> None:
    def people() -> list[dict[str, Any]]:
        return [
            ask(tmp_path, "status"),
            ask(tmp_path, "evict", host="node7", why="flaky"),
            ask(tmp_path, "pause"),
            ask(tmp_path, "slow", rank=3, why="twice as long"),
        ]

    asked, answers = with_driver(tmp_path, people)
    assert asked == [
        Asked(wish=Wish.EVICT, host="node7", why="flaky"),
        Asked(wish=Wish.PAUSE),
        Slow(ranks=(3,), detail="twice as long", certain=True),
    ]
    assert answers == [{"phase": "running"}] * 4
    assert not socket_path(tmp_path).exists()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no json\n",
        b"[1, 2]\n",
        b'{"version": 2, "ask": "stop"}\n',
        b'{"version": 1, "ask": "stop", "more": 1}\n',
        b'{"version": 1, "ask": "explode"}\n',
        b'{"version": 1, "ask": "slow"}\n',
        b'{"version": 1, "ask": "slow", "rank": -1}\n',
        b'{"version": "1", "ask": "stop"}\n',
        b'{"version": 1, "ask": "evict"}\n',
        b"x" * 3_000_000,
    ],
)
def test_what_is_not_understood_changes_nothing(tmp_path: Path, line: bytes) -> None:
    def stranger() -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(5)
            connection.connect(str(socket_path(tmp_path)))
            try:
                connection.sendall(line)
                connection.shutdown(socket.SHUT_WR)
                return connection.recv(1 << 16)
            except OSError:
                return b""

    asked, answer = with_driver(tmp_path, stranger)
    assert asked == []
    assert not answer or "error" in json.loads(answer)


def test_who_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        ask(tmp_path, "status")
    with pytest.raises(UsageError, match="needs a host"):
        with_driver(tmp_path, lambda: ask(tmp_path, "evict"))


def test_the_socket_is_its_owners(tmp_path: Path) -> None:
    def modes() -> list[int]:
        path = socket_path(tmp_path)
        return [each.stat().st_mode & 0o777 for each in (path, path.parent)]

    assert with_driver(tmp_path, modes)[1] == [0o600, 0o700]


def test_each_driver_has_a_generation_and_reads_the_one_before(tmp_path: Path) -> None:
    first = DriverState(tmp_path)
    assert (first.generation, first.past) == (1, None)
    first.keep({"attempt": 1})
    second = DriverState(tmp_path)
    assert (second.generation, second.past) == (2, {"attempt": 1})
    first.keep({"attempt": 99})  # it does not know that it was replaced
    third = DriverState(tmp_path)  # the second had nothing to leave yet
    assert third.generation == 3
    second.keep({"attempt": 2})
    assert DriverState(tmp_path).past == {"attempt": 2}
