"""The books of a fleet's slots: every text reads its own tokens, whatever is shared and moved."""

from __future__ import annotations

from collections import defaultdict
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.elastic.assignment import Transfer
from engine.serving.fleet.texts import Texts

if TYPE_CHECKING:
    from engine.serving.instances.step import Run

SLOTS, INSTANCES = 120, 3
FAMILY = [7] * 64


class Checked:
    """Texts beside memory in which each slot says whose token it has."""

    def __init__(self) -> None:
        self.texts = Texts(salt=b"test")
        self.memory: dict[tuple[int, int], tuple[int, int]] = {}
        self.tokens: dict[int, list[int]] = {}
        self.have: dict[int, int] = defaultdict(int)
        for instance in range(INSTANCES):
            self.texts.gain(instance, SLOTS)

    def begin(self, number: int, tokens: list[int]) -> None:
        self.tokens[number] = tokens
        shares = self.texts.share(number, tokens, b"")
        self.have[number] = sum(count for _, count in shares)
        assert self.have[number] < len(tokens)

    def grow(self, number: int, instance: int, tokens: int, expected: int) -> None:
        first = self.have[number]
        tokens = min(tokens, len(self.tokens[number]) - first)
        if not tokens or tokens > self.room(instance):
            return
        runs = self.texts.keep(number, ((instance, tokens),), first, expected=expected)
        self.write(number, runs)
        self.texts.append(number, runs)
        self.have[number] += tokens

    def room(self, instance: int) -> int:
        """Slots that no text holds: what only keeps a prefix gives way."""
        held = {
            (instance, slot)
            for number in self.tokens
            for run in self.texts.runs(number)
            if run.instance == instance
            for slot in range(run.slot, run.slot + run.tokens)
        }
        return SLOTS - len(held)

    def move(self, number: int, source: int, target: int, tokens: int) -> None:
        there = sum(run.tokens for run in self.texts.runs(number) if run.instance == source)
        tokens = min(tokens, there)
        if source == target or not tokens or tokens > self.room(target):
            return
        copies, left_behind = self.texts.transfer(Transfer(number, source, target, tokens))
        for copy in copies:
            assert (copy.source.first, copy.source.tokens) == (
                copy.target.first,
                copy.target.tokens,
            )
            for at in range(copy.source.tokens):
                self.memory[target, copy.target.slot + at] = self.memory[
                    source, copy.source.slot + at
                ]
        self.texts.leave(left_behind)

    def write(self, number: int, runs: tuple[Run, ...]) -> None:
        for run in runs:
            for at in range(run.tokens):
                place = run.first + at
                self.memory[run.instance, run.slot + at] = place, self.tokens[number][place]

    def free(self, number: int) -> None:
        self.texts.free(number)
        del self.tokens[number], self.have[number]

    def check(self) -> None:
        for number, tokens in self.tokens.items():
            place = 0
            for run in self.texts.runs(number):
                assert run.first == place
                for at in range(run.tokens):
                    found = self.memory[run.instance, run.slot + at]
                    assert found == (place + at, tokens[place + at]), number
                place = run.end
            assert place == self.have[number]


@given(st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_every_text_reads_its_own_tokens(seed: int) -> None:
    chance, checked, number = Random(seed), Checked(), 0
    for _ in range(60):
        action, some = chance.random(), list(checked.tokens)
        if action < 0.25 or not some:
            shared = FAMILY[: chance.randrange(64)]
            checked.begin(number, shared + [chance.randrange(3) for _ in range(1 + number % 40)])
            number += 1
        elif action < 0.65:
            instance, tokens = chance.randrange(INSTANCES), chance.randint(1, 30)
            checked.grow(chance.choice(some), instance, tokens, chance.choice([0, 10]))
        elif action < 0.75:
            who = chance.choice(some)
            if checked.have[who]:
                checked.texts.publish(who, checked.tokens[who], checked.have[who], b"")
        elif action < 0.85:
            source, target = chance.sample(range(INSTANCES), 2)
            checked.move(chance.choice(some), source, target, 9)
        else:
            checked.free(chance.choice(some))
        checked.check()
    for who in list(checked.tokens):
        checked.free(who)
    checked.texts.forget_prefixes()
    assert [checked.texts.used(each, SLOTS) for each in range(INSTANCES)] == [0] * INSTANCES


def test_only_who_has_the_same_salt_and_the_same_tokens_shares() -> None:
    checked = Checked()
    checked.begin(0, FAMILY)
    checked.grow(0, 1, 63, 0)
    checked.texts.publish(0, FAMILY, 63, b"")
    assert checked.texts.known(9, FAMILY, b"") == ((1, 48),)
    assert checked.texts.known(8, FAMILY, b"another") == ()
    assert checked.texts.known(7, [*FAMILY[:20], 8, *FAMILY[21:]], b"") == ((1, 16),)


def test_an_instance_that_is_lost_takes_what_was_shared_with_it() -> None:
    checked = Checked()
    checked.begin(0, FAMILY)
    checked.grow(0, 0, 20, 0)
    checked.grow(0, 1, 43, 0)
    checked.texts.publish(0, FAMILY, 63, b"")
    checked.texts.lose(0)
    assert checked.texts.known(9, FAMILY, b"") == ()
    checked.texts.lose(1)  # and so is the other, which comes back before anybody has noticed
    checked.texts.gain(1, SLOTS)
    checked.texts.free(0)
    assert checked.texts.used(1, SLOTS) == 0
    with pytest.raises(KeyError):
        checked.texts.used(0, SLOTS)
