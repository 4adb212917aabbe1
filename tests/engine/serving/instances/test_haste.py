"""Steps one behind another, with nobody who waits for all accounts of one before the next is told:
whoever is ahead overwrites nothing that another one reads still."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="needs the engine extra")

import msgspec  # noqa: E402

from engine.serving.instances.shared_exchange import SharedExchange  # noqa: E402
from engine.serving.instances.step import Copy, Run, Step  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.serving.instances.step import Done
    from tests.engine.serving.instances.conftest import Fleet, Manager

WAITS = ("give_stripe", "stripe", "ask", "asked", "answers", "end")


@pytest.mark.parametrize("instances", [2, 3, 4])
def test_the_same_accounts_as_when_all_wait(
    make_fleet: Callable[..., Fleet],
    make_manager: Callable[..., Manager],
    monkeypatch: pytest.MonkeyPatch,
    instances: int,
) -> None:
    """Every method of an exchange takes its time, by chance."""
    fleet = make_fleet("llama", instances)
    managers = [make_manager(fleet, 1000 + seed) for seed in range(12)]
    for each in managers:
        each.run()
    accounts = [each for manager in managers for each in manager.accounts]
    first = fleet.steps - min(each.number for each in accounts) + 1
    steps = [
        msgspec.structs.replace(step, number=step.number + first)
        for manager in managers
        for step in manager.steps
    ]
    fleet.steps += first
    for instance in fleet.instances:
        for stored in (*instance.pool.keys, *instance.pool.values):
            stored.fill_(float("nan"))
    for name in WAITS:
        monkeypatch.setattr(SharedExchange, name, delayed(getattr(SharedExchange, name)))
    told = in_haste(fleet, steps)
    assert summary(told) == {
        (number + first, instance): said for (number, instance), said in summary(accounts).items()
    }


def delayed(method: Callable[..., Any]) -> Callable[..., Any]:
    chance = random.Random(method.__name__)

    def later(*given: Any, **named: Any) -> Any:
        if chance.random() < 0.2:
            time.sleep(chance.random() * 0.004)
        return method(*given, **named)

    return later


def in_haste(fleet: Fleet, steps: Sequence[Step]) -> list[Done]:
    """Each instance goes from step to step."""

    def of_one(number: int) -> list[Done]:
        own = [step for step in steps if number in step.instances]
        return [fleet.instances[number].execute(step) for step in own]

    with ThreadPoolExecutor(len(fleet.instances)) as threads:
        accounts = threads.map(of_one, range(len(fleet.instances)), timeout=120)
        return [each for own in accounts for each in own]


def summary(accounts: Sequence[Done]) -> dict[tuple[int, int], Any]:
    return {
        (each.number, each.instance): (
            [(number, token.token) for number, token in each.chosen],
            each.failed,
            each.lost,
            each.sent,
        )
        for each in accounts
    }


@pytest.mark.parametrize("late", [0, 1])
def test_texts_change_places(
    make_fleet: Callable[..., Fleet], monkeypatch: pytest.MonkeyPatch, late: int
) -> None:
    """All copies of a step are read before any is written, though one reads slowly."""
    fleet = make_fleet("llama", 2)
    pools = [each.pool for each in fleet.instances]
    for number, pool in enumerate(pools):
        for stored in (*pool.keys, *pool.values):
            stored.fill_(number)
    reader: Any = fleet.instances[1 - late].exchange
    theirs = reader._peers[late].pool
    read = theirs.read

    def slowly(run: Run) -> Any:
        time.sleep(0.02)
        return read(run)

    monkeypatch.setattr(theirs, "read", slowly)
    here, there = Run(0, 3, 0, 5), Run(1, 3, 0, 5)
    step = Step(
        number=fleet.next_step(),
        instances=(0, 1),
        parts=(),
        copies=(Copy(here, there), Copy(there, here)),
    )
    done = fleet.execute(step)
    assert [each.sent[2] for each in done] == [5 * pools[0].shape.token_bytes] * 2
    for number, pool in enumerate(pools):
        for stored in (*pool.keys, *pool.values):
            assert (stored[:, :, 3:8] == 1 - number).all()
            assert (stored[:, :, :3] == number).all()
