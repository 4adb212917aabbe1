"""Minutes of a live server: more requests than it can hold at once, clients that leave at any time,
and an engine that is killed again and again.

Each request is one of a few, and each of these was answered in peace before: whoever stays must be
given that same text, whole and once.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import httpx
import psutil

from opsuite.bench.home import bench_home
from opsuite.bench.result import Row
from opsuite.bench.serving.model import make_model
from opsuite.output import narrate
from opsuite.serving_load.client import CompletionClient
from opsuite.serving_process import serving

if TYPE_CHECKING:
    from opsuite.serving_load.answer import Answer

OPTIONS = ("--max-batch", "4", "--max-len", "256", "--kv-tokens", "640", "--swap-gb", "0.01")
_ENGINE = "engine.serving.worker.process"
_BODIES = 16
_GAP_S = 0.15
_LEAVING = 0.3
_STAYS_S = 0.2
_KILL_EVERY_S = 25.0
_REST_S = 120.0
_MOST_GROWTH = 0.05
_SLACK_BYTES = 8 << 20
_SAMPLE_S = 5.0


@dataclass(kw_only=True)
class Story:
    """What came of all requests, and how much memory the server took.

    Attributes:
        wrong: answers that were not what they must be, and how.
        api_bytes, engine_bytes: resident; of an engine just before it is killed.
        held: what the server said that it still held at the end.
    """

    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    kills: int = 0
    api_bytes: list[int] = field(default_factory=list)
    engine_bytes: list[int] = field(default_factory=list)
    held: dict[str, float] = field(default_factory=dict)


def measure_live(minutes: int) -> list[Row]:
    """So many minutes, after each request was answered in peace."""
    environment = {"OPSUITE_HOME": str(bench_home()), "OPSUITE_COLLECT": "0"}
    with tempfile.TemporaryDirectory() as directory:
        model = Path(directory) / "chaos"
        make_model(model)
        before = {child.pid for child in psutil.Process().children()}
        with serving(str(model), *OPTIONS, environment=environment) as ready:
            (server,) = (child for child in psutil.Process().children() if child.pid not in before)
            story = asyncio.run(_Chaos(ready.url, ready.model, server).run(minutes * 60.0))
    return _rows(story, minutes)


class _Chaos:
    def __init__(self, url: str, model: str, server: psutil.Process) -> None:
        self._url = url
        self._server = server
        self._chance = random.Random(0)  # noqa: S311 - no secret
        self._story = Story()
        self._bodies = [self._body(model, number) for number in range(_BODIES)]
        self._right: list[str] = []

    async def run(self, seconds: float) -> Story:
        async with CompletionClient(self._url) as client:
            for body in self._bodies:
                answer = await client.ask(body)
                assert not answer.problem, answer.problem
                self._right.append(answer.text)
            narrate(f"{seconds / 60:g} minutes of requests, with a kill every {_KILL_EVERY_S:g} s")
            disturbing = [
                asyncio.create_task(self._kill(seconds)),
                asyncio.create_task(self._weigh(seconds)),
            ]
            asking = []
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                asking.append(asyncio.create_task(self._ask(client)))
                await asyncio.sleep(self._chance.expovariate(1 / _GAP_S))
            await asyncio.gather(*asking, *disturbing)
        self._story.held = await self._at_rest()
        return self._story

    def _body(self, model: str, number: int) -> dict[str, Any]:
        chance = self._chance
        words = ["abcdefghijklmnopqrstuvwxyz"[chance.randrange(26)] for _ in range(120)]
        return {
            "model": model,
            "prompt": "".join(words[: chance.choice([4, 20, 100])]),
            "max_tokens": chance.choice([4, 16, 32, 96]),
            "temperature": chance.choice([0.0, 0.7, 1.0]),
            "seed": number,
            "ignore_eos": True,
            "stop": ["zz"] if number % 4 == 0 else None,
            "presence_penalty": 0.5 if number % 5 == 0 else 0.0,
        }

    async def _ask(self, client: CompletionClient) -> None:
        number = self._chance.randrange(_BODIES)
        asking = asyncio.create_task(client.ask(self._bodies[number]))
        if self._chance.random() < _LEAVING:
            done, _ = await asyncio.wait([asking], timeout=self._chance.expovariate(1 / _STAYS_S))
            if not done:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                self._story.ends["left"] += 1
                return
        self._judge(number, await asking)

    def _judge(self, number: int, answer: Answer) -> None:
        if answer.status == httpx.codes.TOO_MANY_REQUESTS:
            self._story.ends["refused, the queue was full"] += 1
        elif answer.problem:
            self._story.wrong.append(answer.problem)
        elif answer.text != self._right[number]:
            self._story.wrong.append(f"{answer.text!r} instead of {self._right[number]!r}")
        else:
            self._story.ends["answered"] += 1

    async def _kill(self, seconds: float) -> None:
        """The engine's process, now and then; the last time early enough to see it replaced."""
        end = time.monotonic() + seconds
        while time.monotonic() + 2 * _KILL_EVERY_S < end:
            await asyncio.sleep(_KILL_EVERY_S)
            for engine in self._engines():
                self._story.engine_bytes.append(engine.memory_info().rss)
                engine.kill()
                self._story.kills += 1

    async def _weigh(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await asyncio.sleep(_SAMPLE_S)
            self._story.api_bytes.append(self._server.memory_info().rss)

    def _engines(self) -> list[psutil.Process]:
        return [child for child in self._server.children() if _ENGINE in child.cmdline()]

    async def _at_rest(self) -> dict[str, float]:
        """What the server says that it holds, once it holds nothing or has had its time."""
        end = time.monotonic() + _REST_S
        async with httpx.AsyncClient(base_url=self._url, trust_env=False) as client:
            while True:
                held = _held((await client.get("/metrics")).text)
                if not any(held.values()) or time.monotonic() > end:
                    return held
                await asyncio.sleep(0.5)


def _held(metrics: str) -> dict[str, float]:
    from prometheus_client.parser import text_string_to_metric_families

    names = ("kv_cache_usage_perc", "num_requests_running", "num_requests_waiting")
    return {
        sample.name.removeprefix("opsuite:"): sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name.removeprefix("opsuite:") in names
    }


def _rows(story: Story, minutes: int) -> list[Row]:
    ends = ", ".join(f"{count:,} {end}" for end, count in story.ends.most_common())
    asked = story.ends.total() + len(story.wrong)
    still = {name: value for name, value in story.held.items() if value}
    return [
        Row(name="requests", value=asked, unit="", rounds=minutes, note=ends),
        Row(name="engines killed", value=story.kills, unit="", rounds=minutes),
        Row(
            name="requests that stayed and were not given their own text, whole and once",
            value=len(story.wrong),
            unit="",
            rounds=minutes,
            target="0",
            met=not story.wrong and story.ends["answered"] > 0,
            note="; ".join(story.wrong[:3]),
        ),
        Row(
            name="gauges of requests and blocks that are not 0 at the end",
            value=len(still),
            unit="",
            rounds=1,
            target="0",
            met=len(story.held) == 3 and not still,
            note=str(still) if still else "",
        ),
        _memory("memory of the API's process, last third over first", story.api_bytes),
        _memory("memory of engines before they were killed, the same", story.engine_bytes),
    ]


def _memory(name: str, samples: list[int]) -> Row:
    third = max(1, len(samples) // 3)
    first, last = median(samples[:third]), median(samples[-third:])
    most = first * (1 + _MOST_GROWTH) + _SLACK_BYTES
    return Row(
        name=name,
        value=last / first,
        unit="x",
        rounds=len(samples),
        target=f"<= {1 + _MOST_GROWTH:g} x and {_SLACK_BYTES >> 20} MB",
        met=last <= most,
        note=f"{first / 2**20:.0f} to {last / 2**20:.0f} MB",
    )
