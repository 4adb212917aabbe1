"""Whatever is computed together, kept where, copied, dropped and decoded by whom: the output is
that of one plain model, token for token."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

torch = pytest.importorskip("torch", reason="needs the engine extra")

from engine.serving.instances.step import Choice, Copy, Part, Run, Step  # noqa: E402
from engine.serving.sampling.parameters import SamplingParameters  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.serving.instances.step import Done
    from tests.engine.serving.instances.conftest import Fleet

SLOTS = 160
TIE = 1e-4
GREEDY = SamplingParameters(temperature=0)


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
        steps: all that was told, with what it gave.
    """

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self.chance = random.Random(seed)
        self.fleet = fleet
        self.free = [set(range(SLOTS)) for _ in fleet.instances]
        self.steps: list[tuple[Step, dict[int, int]]] = []
        self.texts = [self.text(number) for number in range(self.chance.randint(1, 4))]
        self.live = list(self.texts)

    def text(self, number: int) -> Text:
        length = self.chance.choice([1, 2, 3, self.chance.randint(1, 30)])
        tokens = [self.chance.randrange(1, 260) for _ in range(length)]
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
        within = [
            each for each in self.live if each.holders <= {*group} and each.number not in self.busy
        ]
        chosen = self.chance.sample(within, self.chance.randint(0, len(within)))
        self.busy |= {each.number for each in chosen}
        copies, left = self.copies(group, chosen)
        parts = [self.part(text, group) for text in chosen]
        step = Step(
            number=self.fleet.next_step(), instances=group, parts=tuple(parts), copies=tuple(copies)
        )
        self.give(left)
        return step

    def part(self, text: Text, group: tuple[int, ...]) -> Part:
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
            choice=Choice(parameters=GREEDY, place=place) if gives else None,
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

    def copies(self, group: tuple[int, ...], texts: list[Text]) -> tuple[list[Copy], list[Run]]:
        """And the slots that they leave."""
        copies, left = [], []
        for text in texts:
            for at, run in enumerate(list(text.runs)):
                if self.chance.random() < 0.85 or run.tokens == 0:
                    continue
                target = self.chance.choice(group)
                moved = self.take(target, run.tokens, run.first)
                if len(moved) > 1:
                    self.give(moved)
                    continue
                copies.append(Copy(run, moved[0]))
                left.append(run)
                text.runs[at] = moved[0]
        return copies, left

    def finish(self, step: Step, done: list[Done]) -> None:
        assert all(each.lost is None and not each.failed for each in done)
        chosen = {number: token.token for each in done for number, token in each.chosen}
        assert len(chosen) == sum(part.choice is not None for part in step.parts)
        self.steps.append((step, chosen))
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


def ties(text: Text, fleet: Fleet) -> int:
    """How often the plain model would have chosen otherwise, for scores that are equal but for
    rounding."""
    before = torch.tensor([text.tokens[:-1]])
    given = text.tokens[text.prompt :]
    with torch.inference_mode():
        expected = fleet.model(before)[0, text.prompt - 1 :].argmax(-1).tolist()
        if given == expected:
            return 0
        scores = fleet.exact(before)[0, text.prompt - 1 :]
    found = 0
    for place, (token, other) in enumerate(zip(given, expected, strict=True)):
        if token != other:
            best = scores[place].topk(2).values
            assert float(best[0] - best[1]) < TIE, (text.number, place)
            found += 1
    return found


def test_greedy_output_is_that_of_one_plain_model(make_fleet: Callable[..., Fleet]) -> None:
    """Of 2 to 4 instances, over 500 schedules."""
    families = ["llama", "mistral", "qwen2", "qwen3"]
    seen = {"schedules": 0, "steps": 0, "tokens": 0, "ties": 0}
    for seed in range(504):
        fleet = make_fleet(families[seed % 4], 2 + seed // 4 % 3, SLOTS)
        manager = Manager(fleet, seed)
        try:
            manager.run()
            seen["ties"] += sum(ties(text, fleet) for text in manager.texts)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        seen["schedules"] += 1
        seen["steps"] += len(manager.steps)
        seen["tokens"] += sum(text.wanted for text in manager.texts)
    print(seen)
    assert seen["ties"] <= seen["tokens"] / 1000
