"""What elastic sequence parallelism brings on this machine: two instances of one CPU thread each.

The instances are processes as a server has them; each step is measured from its telling until the
last account of it. Contents of old keys and values are made up: they take as long as real ones.
"""

from __future__ import annotations

import random
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from opsuite.bench.result import Row
from opsuite.bench.rounds import interleave, interval_of, ratio_interval
from opsuite.bench.serving_engine import Shape, make_model
from opsuite.output import narrate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.serving.instances.step import Done, Run
    from opsuite.bench.instances_alone import InstancesAlone

    Text = tuple[Sequence[Run], Run]  # where its tokens lie, and the next one will

_PREFILL, _DECODE = Shape(hidden_size=512, n_layers=4), Shape(hidden_size=256, n_layers=4)
_PROMPTS = (4096, 8192)
_CONTEXT, _TEXTS = 32768, 4
_SHORT = 16  # tokens of contexts that cost next to nothing
_STEPS = 8  # of decode, in each round
_ONE, _BOTH = (0,), (0, 1)
_LEAST_PREFILL, _MOST_DOWN, _LEAST_DECODE, _LEAST_SHARE = 1.7, 1.02, 1.5, 0.7


def measure(rounds: int) -> list[Row]:
    """Prefill, scaling down, and decode, beside one instance."""
    rows: list[Row] = []
    with _instances(_PREFILL, context=max(_PROMPTS), slots=max(_PROMPTS)) as instances:
        for tokens in _PROMPTS:
            narrate(f"prefill of {tokens:,} tokens ...")
            rows += _Prefill(instances, tokens).rows(rounds)
    with _instances(_DECODE, context=_CONTEXT + 1, slots=_TEXTS * (_CONTEXT + 1)) as instances:
        narrate(f"decode of {_TEXTS} contexts of {_CONTEXT:,} tokens ...")
        return rows + _Decode(instances).rows(rounds)


@contextmanager
def _instances(shape: Shape, *, context: int, slots: int) -> Iterator[InstancesAlone]:
    """Two, of a model with random weights."""
    from opsuite.bench.instances_alone import InstancesAlone

    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "model"
        make_model(directory, shape, context=context)
        with InstancesAlone(directory, instances=2, slots=slots) as instances:
            yield instances


class _Prefill:
    """Of one prompt: by one instance; by both, each of which keeps as much as it computes; and by
    both, scaled down to the first."""

    def __init__(self, instances: InstancesAlone, tokens: int) -> None:
        self._instances = instances
        self._tokens = tokens
        chance = random.Random(tokens)  # noqa: S311 - of a benchmark
        self._prompt = [chance.randrange(1, 4096) for _ in range(tokens)]
        half = tokens // 2
        self._halves = _placed((0, half), (1, tokens - half))
        self._first = _placed((0, tokens))
        self._ring: dict[str, int] = {}

    def rows(self, rounds: int) -> list[Row]:
        """In words, and whether they are as they should be."""
        variants = {
            "one": partial(self._timed, "one", _ONE, self._first),
            "both": partial(self._timed, "both", _BOTH, self._halves),
            "down": partial(self._timed, "down", _BOTH, self._first),
        }
        for each in variants.values():
            each()  # warm
        seconds = interleave(variants, rounds)
        one, both, down = (median(seconds[name]) for name in variants)
        name = f"{_PREFILL}, prefill of {self._tokens:,} tokens"
        return [
            Row(
                name=f"{name}: DoP 2 over DoP 1",
                value=self._tokens / both,
                unit="tokens/s",
                rounds=rounds,
                baseline=self._tokens / one,
                ratio=one / both,
                interval=ratio_interval(seconds["one"], seconds["both"]),
                target=f">= {_LEAST_PREFILL}x",
                met=one / both >= _LEAST_PREFILL,
                note="two processes, one thread each, float32; "
                + _by_processor_time(self._instances, self._name("one"), self._name("both")),
            ),
            Row(
                name=f"{name}, scaled down to one instance over kept by both",
                value=down,
                unit="s",
                rounds=rounds,
                baseline=both,
                ratio=down / both,
                interval=interval_of(_ratio_of_pairs, seconds["down"], seconds["both"]),
                target=f"<= {_MOST_DOWN}x",
                met=down / both <= _MOST_DOWN,
                note="interval of the median over rounds of the ratio in each",
            ),
            Row(
                name=f"{name}: bytes that scaling down adds to the ring",
                value=self._ring["down"] - self._ring["both"],
                unit="bytes",
                rounds=rounds,
                target="0",
                met=self._ring["down"] == self._ring["both"] > 0,
                note=f"of {self._ring['both']:,}",
            ),
        ]

    def _timed(self, name: str, group: tuple[int, ...], keep: tuple[Run, ...]) -> float:
        with self._instances.counted(self._name(name)):
            seconds, done = self._instances.prefill(group, self._prompt, keep)
        self._ring[name] = _sent(done)[0]
        return seconds

    def _name(self, variant: str) -> str:
        return f"prefill of {self._tokens}, {variant}"


class _Decode:
    """Of texts that lie half on each instance, with half of the masters each; of the same on one
    instance; and of these when half of them have just got the other instance for a master."""

    def __init__(self, instances: InstancesAlone) -> None:
        self._instances = instances
        self._moved = 0

    def rows(self, rounds: int) -> list[Row]:
        """In words, and whether they are as they should be."""
        variants = {
            "one": partial(self._timed, "one", _ONE, _alone(_CONTEXT)),
            "both": partial(self._timed, "both", _BOTH, _spread(_CONTEXT)),
            "up": partial(self._timed, "up", _BOTH, _scaled_up(_CONTEXT)),
            "short": partial(self._timed, "short", _ONE, _alone(_SHORT)),
        }
        for each in variants.values():
            each()  # warm
        seconds = interleave(variants, rounds)
        one, both, up, short = (median(seconds[name]) for name in variants)
        share = 1 - short / one
        name = f"{_DECODE}, decode of {_TEXTS} contexts of {_CONTEXT:,} tokens"
        return [
            Row(
                name=f"{name}: DoP 2 over DoP 1",
                value=_TEXTS / both,
                unit="tokens/s",
                rounds=rounds,
                baseline=_TEXTS / one,
                ratio=one / both,
                interval=ratio_interval(seconds["one"], seconds["both"]),
                target=f">= {_LEAST_DECODE}x, attention >= {_LEAST_SHARE:.0%}",
                met=one / both >= _LEAST_DECODE and share >= _LEAST_SHARE,
                note=f"attention is {share:.0%} of DoP 1's: {1e3 * one:.1f} ms a step, and"
                f" {1e3 * short:.1f} ms with contexts of {_SHORT}; every text lies half on each; "
                + _by_processor_time(self._instances, "one", "both"),
            ),
            Row(
                name=f"{name}: bytes of old keys and values that scaling up moves",
                value=self._moved,
                unit="bytes",
                rounds=rounds,
                target="0",
                met=self._moved == 0,
                note=f"all of them on one instance: {1e3 * up:.1f} ms a step",
            ),
        ]

    def _timed(self, name: str, group: tuple[int, ...], texts: Sequence[Text]) -> float:
        """Of a step."""
        with self._instances.counted(name):
            steps = [self._instances.decode(group, texts) for _ in range(_STEPS)]
        for _, done in steps:
            ring, _, copies = _sent(done)
            self._moved += ring + copies
        return sum(seconds for seconds, _ in steps) / _STEPS


def _placed(*shares: tuple[int, int]) -> tuple[Run, ...]:
    """So many tokens of a text at each instance, from its first slot on."""
    from engine.serving.instances.step import Run

    runs: list[Run] = []
    for instance, tokens in shares:
        runs.append(Run(instance, 0, runs[-1].end if runs else 0, tokens))
    return tuple(runs)


def _alone(context: int) -> list[Text]:
    """Texts on the first instance, with room for a token behind each."""
    from engine.serving.instances.step import Run

    slots = [number * (context + 1) for number in range(_TEXTS)]
    return [([Run(0, slot, 0, context)], Run(0, slot + context, context, 1)) for slot in slots]


def _scaled_up(context: int) -> list[Text]:
    """The same, but the new tokens of every other one are the second instance's."""
    from engine.serving.instances.step import Run

    texts = _alone(context)
    texts[1::2] = [(old, Run(1, number, context, 1)) for number, (old, _) in enumerate(texts[1::2])]
    return texts


def _spread(context: int) -> list[Text]:
    """Texts half on each instance; every other one ends on the second."""
    from engine.serving.instances.step import Run

    half = context // 2
    found: list[Text] = []
    for number in range(_TEXTS):
        begins, ends = (0, 1) if number % 2 else (1, 0)
        slot = number * (half + 1)
        old = [Run(begins, slot, 0, half), Run(ends, slot, half, half)]
        found.append((old, Run(ends, slot + half, context, 1)))
    return found


def _sent(done: Sequence[Done]) -> tuple[int, int, int]:
    """By all instances together."""
    ring, answers, copies = (sum(each.sent[kind] for each in done) for kind in range(3))
    return ring, answers, copies


def _by_processor_time(instances: InstancesAlone, one: str, both: str) -> str:
    """What the ratio would be if nobody else were on the machine, and waiting took no time."""
    ratio = instances.busiest(one) / max(instances.busiest(both), 1e-9)
    return f"{ratio:.2f}x by processor time of the busier instance"


def _ratio_of_pairs(tops: Sequence[float], bottoms: Sequence[float]) -> float:
    return median(top / bottom for top, bottom in zip(tops, bottoms, strict=True))
