"""What instances give to each other, counted; and requests that have no next token."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="needs the engine extra")

from engine.serving.instances.step import Choice, Copy, Part, Run, Step  # noqa: E402
from engine.serving.sampling.parameters import SamplingParameters  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.serving.instances.step import Done

CHOICE = Choice(parameters=SamplingParameters(temperature=0), place=0)
PROMPT = tuple(7 * place % 259 + 1 for place in range(45))
ROW = 2 * 8 * 4  # bytes of one token's keys in one layer: 2 heads, 8 wide, float32
TOKEN = 2 * 2 * ROW  # keys and values in two layers
QUESTION, ANSWER = 4 * 8 * 4, (4 * 8 + 4) * 4  # a query; partial results with their sums


def runs(shares: Sequence[tuple[int, int]], first: int = 0, slot: int = 0) -> tuple[Run, ...]:
    """So many tokens at each instance, in the order of the text."""
    found: list[Run] = []
    used: dict[int, int] = {}
    for instance, tokens in shares:
        at = slot + used.get(instance, 0)
        found.append(Run(instance, at, first, tokens))
        first, used[instance] = first + tokens, used.get(instance, 0) + tokens
    return tuple(found)


def plans(size: int, tokens: int) -> list[list[tuple[int, int]]]:
    """To one, to some, to all, token by token, and by chance."""
    chance = random.Random(size)
    found = [
        [(0, tokens)],
        [(size - 1, tokens)],
        [(at, tokens // size + (at < tokens % size)) for at in range(size)],
        [(at % size, 1) for at in range(tokens)],
    ]
    for _ in range(4):
        cuts = sorted(chance.sample(range(1, tokens), 5))
        pieces = [end - begin for begin, end in zip([0, *cuts], [*cuts, tokens], strict=True)]
        found.append([(chance.randrange(size), piece) for piece in pieces])
    return found


class Text:
    """A prompt that a group computes, in one step or two, and its next tokens."""

    def __init__(self, fleet: Any, group: tuple[int, ...]) -> None:
        self.fleet = fleet
        self.group = group
        self.cached: tuple[Run, ...] = ()

    def compute(self, tokens: Sequence[int], keep: tuple[Run, ...], **options: Any) -> list[Done]:
        part = Part(
            number=3,
            tokens=tuple(tokens),
            first=keep[0].first,
            cached=self.cached,
            keep=keep,
            choice=CHOICE,
            **options,
        )
        done = self.step((part,))
        self.cached += keep
        return done

    def step(self, parts: tuple[Part, ...], copies: tuple[Copy, ...] = ()) -> list[Done]:
        step = Step(number=self.fleet.next_step(), instances=self.group, parts=parts, copies=copies)
        done: list[Done] = self.fleet.execute(step)
        assert all(each.lost is None for each in done)
        return done


def sent(done: Sequence[Done]) -> tuple[int, int, int]:
    ring, answers, copies = (sum(each.sent[kind] for each in done) for kind in range(3))
    return ring, answers, copies


def token(done: Sequence[Done]) -> int:
    [[(_, chosen)]] = [each.chosen for each in done if each.chosen]
    return chosen.token


@pytest.mark.parametrize("size", [2, 3, 4])
def test_scaling_down_to_any_plan_adds_nothing_to_the_ring(
    make_fleet: Callable[..., Any], size: int
) -> None:
    """Each new token passes each other instance once, and each cached one when more is computed:
    wherever both are kept. The next tokens are the same."""
    fleet, group = make_fleet("llama", size), tuple(range(size))
    found = set()
    for plan in plans(size, 31):
        text = Text(fleet, group)
        first = text.compute(PROMPT[:31], runs(plan))
        assert sent(first) == ((size - 1) * 31 * TOKEN, 0, 0)
        for more in plans(size, 14):
            text.cached = runs(plan)
            done = text.compute(PROMPT[31:], runs(more, first=31, slot=60))
            assert sent(done) == ((size - 1) * 45 * TOKEN, 0, 0)
            found.add((token(first), token(done)))
    assert len(found) == 1


def test_scaling_up_moves_no_keys_and_values(make_fleet: Callable[..., Any]) -> None:
    """Who becomes a master asks who holds the text: a query and an answer in each layer, however
    long it is."""
    fleet = make_fleet("llama", 3)
    text = Text(fleet, (0, 1, 2))
    text.compute(PROMPT, runs([(0, 45)]))
    for place, master in enumerate((1, 2, 0)):
        keep = (Run(master, 100, 45 + place, 1),)
        holders = {run.instance for run in (*text.cached, *keep)} - {master}
        ring, answers, copies = sent(text.compute([5], keep, master=master))
        assert (ring, copies) == (0, 0)
        assert answers == 2 * len(holders) * (QUESTION + ANSWER)


def test_copies_are_counted_where_they_come_from(make_fleet: Callable[..., Any]) -> None:
    """Those within a pool are nobody's gift."""
    text = Text(make_fleet("llama", 2), (0, 1))
    text.compute(PROMPT, runs([(0, 45)]))
    copies = (
        Copy(Run(0, 10, 10, 5), Run(1, 3, 10, 5)),
        Copy(Run(0, 40, 40, 5), Run(0, 90, 40, 5)),
    )
    done = text.step((), copies)
    assert [each.sent for each in done] == [(0, 0, 5 * TOKEN), (0, 0, 0)]


def test_scores_that_are_not_finite_fail_their_request_alone(
    make_fleet: Callable[..., Any],
) -> None:
    """Its cached values are NaN, as of a token that overflowed."""
    fleet = make_fleet("llama", 2)
    sound = Text(fleet, (0, 1))
    sound.compute(PROMPT, runs([(0, 20), (1, 25)]))
    for values in fleet.instances[1].pool.values:
        values[..., 120:130, :] = float("nan")
    parts = [
        Part(
            number=number,
            tokens=(5,),
            first=45,
            cached=cached,
            keep=(Run(0, 130 + number, 45, 1),),
            master=0,
            choice=CHOICE,
        )
        for number, cached in enumerate((sound.cached, (*runs([(0, 35)]), Run(1, 120, 35, 10))))
    ]
    first, second = sound.step(tuple(parts))
    assert [number for number, _ in first.chosen] == [0]
    assert (first.failed, second.failed, second.chosen) == ((1,), (), ())
