"""Elastic instances in processes of their own, told step after step: no server, no policy."""

from __future__ import annotations

import select
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Self

import psutil

from collectors.errors import RunFailed
from engine.serving.config import ServingConfig
from engine.serving.fleet.crew import Crew
from engine.serving.instances.step import Choice, Part, Run, Step
from engine.serving.sampling.parameters import SamplingParameters
from engine.serving.wire import Start

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from engine.serving.instances.step import Done

_GREEDY = Choice(parameters=SamplingParameters(temperature=0), place=0)


class InstancesAlone:
    """Of a model directory, each on one CPU thread; they end with the body.

    Args:
        slots: of each one's pool.
    """

    def __init__(self, directory: Path, *, instances: int, slots: int) -> None:
        others = {each.pid for each in psutil.Process().children()}
        config = ServingConfig(
            device="cpu", threads=1, instances=instances, policy="esp", kv_tokens=slots
        )
        start = Start(directory=str(directory), config=config.model_dump_json())
        self._stack = ExitStack()
        self._crew = self._stack.enter_context(Crew(start, instances=instances, tp=1, slots=slots))
        self._instances = instances
        self._steps = 0
        children = psutil.Process().children()
        self._processes = [each for each in children if each.pid not in others]
        self._counted: dict[str, list[float]] = {}

    def __enter__(self) -> Self:
        while len(self._crew.ready) < self._instances:
            self._hear()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def prefill(
        self, group: tuple[int, ...], prompt: Sequence[int], keep: tuple[Run, ...]
    ) -> tuple[float, list[Done]]:
        """Seconds until the last of a group has told what came of a prompt, and what it was."""
        part = Part(number=0, tokens=tuple(prompt), first=0, cached=(), keep=keep, choice=_GREEDY)
        return self._run(group, (part,))

    def decode(
        self, group: tuple[int, ...], texts: Sequence[tuple[Sequence[Run], Run]]
    ) -> tuple[float, list[Done]]:
        """The same of the next token of each text: where its tokens lie, and the new one will."""
        parts = [
            Part(
                number=number,
                tokens=(1,),
                first=new.first,
                cached=tuple(old),
                keep=(new,),
                master=new.instance,
                choice=_GREEDY,
            )
            for number, (old, new) in enumerate(texts)
        ]
        return self._run(group, tuple(parts))

    @contextmanager
    def counted(self, name: str) -> Iterator[None]:
        """Processor time of the body counts under this name."""
        before = self._processor_seconds()
        yield
        spent = [
            after - begun for begun, after in zip(before, self._processor_seconds(), strict=True)
        ]
        sums = self._counted.get(name, [0.0] * len(spent))
        self._counted[name] = [so_far + more for so_far, more in zip(sums, spent, strict=True)]

    def busiest(self, name: str) -> float:
        """Processor seconds of the instance that had most of what counts under a name."""
        return max(self._counted[name])

    def _processor_seconds(self) -> list[float]:
        times = [each.cpu_times() for each in self._processes]
        return [each.user + each.system for each in times]

    def _run(self, group: tuple[int, ...], parts: tuple[Part, ...]) -> tuple[float, list[Done]]:
        self._steps += 1
        step = Step(number=self._steps, instances=group, parts=parts)
        done: list[Done] = []
        begun = time.perf_counter()
        self._crew.compute([step])
        while len(done) < len(group):
            done += self._hear()
        return time.perf_counter() - begun, done

    def _hear(self) -> list[Done]:
        news = self._crew.hear(select.select(self._crew.channels, [], [])[0])
        if news.lost:
            raise RunFailed(f"instance {news.lost[0]} has ended", remedy="see above why")
        return news.done
