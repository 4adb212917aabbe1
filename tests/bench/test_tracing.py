"""Short versions of the campaigns of ``opsuite bench store``: what is right, not how fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from opsuite.bench.tracing import attacks, damage, day, fleet, kills, live
from opsuite.bench.tracing.simulated_fleet import Fleet

if TYPE_CHECKING:
    from opsuite.bench.result import Row

SMALL = Fleet(pp=2, dp=8, steps=50)

pytestmark = pytest.mark.usefixtures("home")


def by_name(rows: list[Row], part: str) -> Row:
    [row] = [row for row in rows if part in row.name]
    return row


def test_events_of_live_producers_are_stored_once() -> None:
    rows = live.measure(ranks=2, rate=2_000, seconds=1.0)
    stored = by_name(rows, "exactly once")
    assert stored.met, stored.note
    assert by_name(rows, "lag p99, by the daemon").value


def test_kills_lose_nothing() -> None:
    for row in kills.measure(kills=6):
        assert row.met, row


def test_damage_gives_no_wrong_row() -> None:
    for row in damage.measure(cut_step=211, flip_step=303):
        assert row.met, row


def test_attacks_are_refused_while_events_come_in() -> None:
    rows = attacks.measure(forbidden=attacks.FORBIDDEN[::8], bombs=attacks.BOMBS[-2:])
    for row in rows[:2]:
        assert row.met, row
    assert "0 lost, 0 doubled, 0 invented, 0 wrong" in rows[2].note


def test_the_slow_host_of_a_fleet_comes_first() -> None:
    rows = fleet.measure(1, SMALL)
    blamed = by_name(rows, "stragglers() names first")
    assert blamed.met, blamed


def test_half_an_hour_of_a_day_is_collected_whole() -> None:
    rows = day.measure(hours=0.5)
    collected = by_name(rows, "events collected")
    assert collected.met, collected
