"""Fleets of instances as threads of one process, over memory that they have in common, and a
manager of them that decides by chance."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.models.transformer import Transformer
    from engine.serving.instances.instance import Instance
    from engine.serving.instances.step import Copy, Done, Part, Run, Step

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"window": 7},
    "qwen2": {"qkv_bias": True, "tie_embeddings": True},
    "qwen3": {"qk_norm": True, "head_size": 16, "n_kv_heads": 1},
}
VOCABULARY = 260
SLOTS = 160


def make_model(family: str) -> Transformer:
    """Two layers; weights are large enough that top scores are well apart."""
    import torch

    from engine.models.config import ModelConfig
    from engine.models.transformer import Transformer

    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2,
        "intermediate_size": 48, "max_seq_len": 256,
    }  # fmt: skip
    model = Transformer(ModelConfig(**(shape | FAMILIES[family]))).requires_grad_(False)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        scale = 0.3 if parameter.dim() > 1 else 1.0
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


@dataclass
class Fleet:
    """Attributes:
    model: the plain one.
    exact: in float64.
    """

    model: Transformer
    exact: Transformer
    instances: list[Instance]
    threads: ThreadPoolExecutor
    steps: int = 0

    def next_step(self) -> int:
        """Its number: they grow as long as the instances live."""
        self.steps += 1
        return self.steps

    def execute(self, *steps: Step) -> list[Done]:
        """Of disjoint groups, at the same time."""
        futures = [
            self.threads.submit(self.instances[each].execute, step)
            for step in steps
            for each in step.instances
        ]
        return [each.result(timeout=30) for each in futures]

    def close(self) -> None:
        self.threads.shutdown()
        for each in self.instances:
            exchange: Any = each.exchange
            exchange.close()


def make(family: str, instances: int) -> Fleet:
    """Their pools hold NaN: what is not written must not be read."""
    import torch

    from engine.serving.instances.instance import Instance
    from engine.serving.instances.pool import PoolShape
    from engine.serving.instances.shared_exchange import SharedExchange

    model = make_model(family)
    shape = PoolShape.of(model.config, torch.float32)
    exchanges = [SharedExchange(number, shape, SLOTS, timeout_s=20) for number in range(instances)]
    for each in exchanges:
        for stored in (*each.pool.keys, *each.pool.values):
            stored.fill_(float("nan"))
        for other in exchanges:
            if other is not each:
                each.set_peer(other.instance, other.pid, other.descriptor, other.nbytes)
    made = [Instance(make_model(family), each.pool, each) for each in exchanges]
    return Fleet(model, make_model(family).double(), made, ThreadPoolExecutor(instances))


@dataclass
class Text:
    """A request as its manager sees it.

    Attributes:
        runs: where what is computed lies.
    """

    number: int
    tokens: list[int]
    prompt: int
    wanted: int
    runs: list[Run] = field(default_factory=list)

    @property
    def cached(self) -> int:
        return sum(run.tokens for run in self.runs)

    @property
    def holders(self) -> set[int]:
        return {run.instance for run in self.runs}


class Manager:
    """One that decides by chance, within what fits.

    Attributes:
        steps, accounts: all that was told, and what came of it.
    """

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self.chance = random.Random(seed)
        self.fleet = fleet
        self.free = [set(range(SLOTS)) for _ in fleet.instances]
        self.steps: list[Step] = []
        self.accounts: list[Done] = []
        self.texts = [self.text(number) for number in range(self.chance.randint(1, 4))]
        self.live = list(self.texts)

    def text(self, number: int) -> Text:
        length = self.chance.choice([1, 2, 3, self.chance.randint(1, 30)])
        tokens = [self.chance.randrange(1, VOCABULARY) for _ in range(length)]
        return Text(number, tokens, length, self.chance.randint(1, 4))

    def run(self) -> None:
        while self.live:
            self.iterate()
        assert all(len(free) == SLOTS for free in self.free), "pools are empty at the end"

    def iterate(self) -> None:
        self.busy: set[int] = set()
        steps = [self.step(group) for group in self.groups()]
        steps = [each for each in steps if each.parts or each.copies]
        done = self.fleet.execute(*steps)
        for step in steps:
            own = [each for each in done if each.number == step.number]
            assert sorted(each.instance for each in own) == list(step.instances)
            self.finish(step, own)

    def groups(self) -> list[tuple[int, ...]]:
        """Disjoint."""
        instances = list(range(len(self.fleet.instances)))
        self.chance.shuffle(instances)
        size = self.chance.choice([len(instances), self.chance.randint(1, len(instances))])
        groups = [tuple(sorted(instances[:size]))]
        if size < len(instances):
            groups.append(tuple(sorted(instances[size:])))
        return groups

    def step(self, group: tuple[int, ...]) -> Step:
        """Of texts that are wholly there, or not begun."""
        from engine.serving.instances.step import Step

        within = [
            each for each in self.live if each.holders <= {*group} and each.number not in self.busy
        ]
        chosen = self.chance.sample(within, self.chance.randint(0, len(within)))
        self.busy |= {each.number for each in chosen}
        copies = self.copies(group, chosen)
        parts = [self.part(text, group) for text in chosen]
        step = Step(
            number=self.fleet.next_step(), instances=group, parts=tuple(parts), copies=tuple(copies)
        )
        return step

    def part(self, text: Text, group: tuple[int, ...]) -> Part:
        from engine.serving.instances.step import Choice, Part
        from engine.serving.sampling.parameters import SamplingParameters

        greedy = SamplingParameters(temperature=0)
        due = len(text.tokens) - text.cached
        tokens = self.chance.choice([due, self.chance.randint(1, due)])
        first = text.cached
        master = None
        if self.chance.random() < (0.7 if due == 1 else 0.1):
            master = self.chance.choice(group)
        keep = self.plan(tokens, first, group if master is None else (master,))
        gives = first + tokens == len(text.tokens)
        place = len(text.tokens) - text.prompt
        return Part(
            number=text.number,
            tokens=tuple(text.tokens[first : first + tokens]),
            first=first,
            cached=tuple(text.runs),
            keep=tuple(keep),
            master=master,
            choice=Choice(parameters=greedy, place=place) if gives else None,
        )

    def plan(self, tokens: int, first: int, group: tuple[int, ...]) -> list[Run]:
        """Any instances of the group, in any parts."""
        runs: list[Run] = []
        while tokens:
            instance = self.chance.choice(group)
            part = self.chance.choice([tokens, self.chance.randint(1, tokens)])
            runs += self.take(instance, part, first)
            first += part
            tokens -= part
        return runs

    def take(self, instance: int, tokens: int, first: int) -> list[Run]:
        """Neighbours where there are some, or any slots."""
        from engine.serving.instances.step import Run

        free = self.free[instance]
        start = self.chance.randrange(SLOTS)
        together = set(range(start, start + tokens))
        if together <= free:
            free -= together
            return [Run(instance, start, first, tokens)]
        slots = self.chance.sample(sorted(free), tokens)
        free -= set(slots)
        return [Run(instance, slot, first + place, 1) for place, slot in enumerate(slots)]

    def give(self, runs: list[Run]) -> None:
        for run in runs:
            slots = set(range(run.slot, run.slot + run.tokens))
            assert not slots & self.free[run.instance]
            self.free[run.instance] |= slots

    def copies(self, group: tuple[int, ...], texts: list[Text]) -> list[Copy]:
        """The slots that they leave may be taken by others, and by the step's new tokens."""
        from engine.serving.instances.step import Copy

        copies = []
        for text in texts:
            for at, run in enumerate(list(text.runs)):
                if self.chance.random() < 0.85:
                    continue
                moved = self.take(self.chance.choice(group), run.tokens, run.first)
                if len(moved) > 1:
                    self.give(moved)
                    continue
                copies.append(Copy(run, moved[0]))
                self.give([run])
                text.runs[at] = moved[0]
        return copies

    def finish(self, step: Step, done: list[Done]) -> None:
        assert all(each.lost is None and not each.failed for each in done)
        chosen = {number: token.token for each in done for number, token in each.chosen}
        assert len(chosen) == sum(part.choice is not None for part in step.parts)
        self.steps.append(step)
        self.accounts += done
        for part in step.parts:
            text = self.texts[part.number]
            text.runs += part.keep
            if part.choice is not None:
                text.tokens.append(chosen[text.number])
            ended = len(text.tokens) - text.prompt >= text.wanted
            if ended or self.chance.random() < 0.06:  # or dropped
                self.give(text.runs)
                text.runs = []
            if ended:
                self.live.remove(text)


@pytest.fixture(scope="session")
def make_manager() -> Any:
    """To be called with a fleet and a seed."""
    return Manager


@pytest.fixture(scope="session")
def make_fleet() -> Iterator[Callable[..., Fleet]]:
    """To be called with a family and a number of instances; made once for each."""
    torch = pytest.importorskip("torch", reason="needs the engine extra")
    from engine.peers.machine import unusable_here

    if why := unusable_here():
        pytest.skip(f"memory in common: {why}")
    torch.set_num_threads(1)
    fleets: dict[tuple[str, int], Fleet] = {}

    def made(family: str, instances: int) -> Fleet:
        key = (family, instances)
        if key not in fleets:
            fleets[key] = make(*key)
        return fleets[key]

    yield made
    for each in fleets.values():
        each.close()
