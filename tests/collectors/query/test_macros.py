"""What people ask of a run, on cases computed by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collectors.query.session import Session

MS = 1_000_000
Small = Any  # the conftest's SmallStore


def milliseconds(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [tuple(round(x * 1e3, 6) if isinstance(x, float) else x for x in row) for row in rows]


@pytest.fixture
def trained(small: Small) -> Small:
    """Three steps of two ranks; rank 1 computes 30 ms before the all-reduce, rank 0 10 and waits.

    A step is forward 0-40 with the all-reduce to 34, backward 40-50; a checkpoint follows step 2,
    with a barrier inside of it that belongs to that step's number.
    """
    small.run("2026-trained", ended_ns=1_700_000_000_000_000_000 + 500 * MS)
    for rank, arrival in ((0, 10), (1, 30)):
        process = small.process(rank)
        for step in range(3):
            start = 100 * step
            small.span(process, "step", step, start, start + 50)
            small.span(process, "forward", step, start, start + 40)
            small.span(process, "backward", step, start + 40, start + 50)
            small.reduce(process, step, start + arrival, start + 34)
        small.span(process, "checkpoint", 2, 250, 270)
        small.reduce(process, 2, 260, 270, name="barrier", group="world")
        if rank == 0:
            for step in range(3):
                small.add("sample", process, name="tokens", step=step, at=step, value=100)
    small.seal()
    return small


def test_the_rank_that_waits_is_no_straggler(session: Session, trained: Small) -> None:
    """Own time: rank 0 has 50 - 24 ms, rank 1 50 - 4; the barrier after the step does not count.

    Of two ranks the ratio is to the faster one.
    """
    session.show(trained.snapshot())
    rows = session.rows("SELECT * EXCLUDE (host) FROM stragglers('last')")
    assert milliseconds(rows) == [
        ("2026-trained", 1, 3, 46.0, round(46 / 26 * 1e3, 6)),
        ("2026-trained", 0, 3, 26.0, 1000.0),
    ]


def test_where_a_steps_time_goes(session: Session, trained: Small) -> None:
    session.show(trained.snapshot())
    rows = session.rows("FROM step_breakdown('2026')")
    assert [(row[0], *(round(x * 1e3, 3) for x in row[1:])) for row in rows] == [
        ("step", 50.0, 50.0, 36.0, 10.0, 4.0, 1000.0),
        ("forward", 40.0, 40.0, 26.0, 10.0, 4.0, 800.0),
        ("backward", 10.0, 10.0, 10.0, 0.0, 0.0, 200.0),
        ("checkpoint", 20.0, 20.0, 10.0, 0.0, 10.0, round(2 * 20 / 300 * 1e3, 3)),
    ]


def test_a_heatmap_has_a_hundred_stretches_at_most(session: Session, small: Small) -> None:
    small.run("r")
    for rank in range(3):
        process = small.process(rank)
        for step in range(250):
            longer = 2 if rank == 1 and step >= 240 else 1
            small.span(process, "forward", step, step * 10, step * 10 + 4 * longer)
    session.show(small.snapshot())
    rows = session.rows("FROM heatmap('last', 'forward') ORDER BY rank, bucket")
    assert len(rows) == 3 * 84  # 3 steps each
    assert milliseconds(rows[:1]) == [(0, 0, 0, 2, 4.0, 4.0, 1000.0)]
    hot = [(row[0], row[2], row[3]) for row in rows if row[-1] > 1.5]
    assert hot == [(1, 240, 242), (1, 243, 245), (1, 246, 248), (1, 249, 249)]
    assert session.rows("FROM heatmap('last', 'backward')") == []


def test_a_timeline_begins_with_its_step(session: Session, trained: Small) -> None:
    session.show(trained.snapshot())
    rows = session.rows("SELECT * EXCLUDE (host) FROM timeline('last', 1) WHERE rank = 0")
    assert milliseconds(rows) == [
        (0, "span", "step", 0.0, 50.0, None),
        (0, "span", "forward", 0.0, 40.0, None),
        (0, "collective", "all_reduce tp[0,1]", 10.0, 24.0, 20.0),
        (0, "span", "backward", 40.0, 10.0, None),
    ]


def test_goodput_counts_each_step_once(session: Session, trained: Small) -> None:
    """Step 2 is done again after a restart: 3 x 50 ms of 500 made progress, 50 were repeated."""
    for rank in (0, 1):
        again = trained.process(rank)
        trained.span(again, "step", 2, 400, 450)
    session.show(trained.snapshot())
    [row] = session.query("FROM goodput('last')").table.to_pylist()
    expected = {
        **{"wall_s": 0.5, "productive_s": 0.15, "repeated_s": 0.05, "checkpoint_s": 0.02},
        **{"other_s": 0.28, "goodput": 0.3, "steps": 3, "tokens": 300, "tokens_per_s": 600},
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert row["own_share"] + row["blocked_share"] + row["transfer_share"] == pytest.approx(1)
    assert row["blocked_share"] == pytest.approx(3 * 20 / (8 * 50))


def test_last_is_the_last_run_of_the_kind_that_is_asked_about(
    session: Session, trained: Small
) -> None:
    """A server is started after a training run: each function still finds its own."""
    trained.run("2027-served", kind="serving")
    server = trained.process(None)
    trained.event(server, "request.arrived", 10, subject=1, attributes={"id": "a"})
    trained.event(server, "request.first_token", 110, subject=1)
    trained.seal()
    session.show(trained.snapshot())
    names = "SELECT run_named('last'), training_named('last'), serving_named('last')"
    assert session.rows(names) == [("2027-served", "2026-trained", "2027-served")]
    for question in (
        "FROM stragglers('last')",
        "FROM step_breakdown('last')",
        "FROM heatmap('last', 'forward')",
        "FROM timeline('last', 1)",
        "SELECT steps FROM goodput('last') WHERE steps = 3",
        "FROM ttft('last')",
    ):
        assert session.rows(question), question
    trained.run("2028-trained")
    session.show(trained.snapshot())
    assert session.rows("FROM stragglers('last')") == []
    assert session.rows("SELECT serving_named('last')") == [("2027-served",)]


def test_a_heatmaps_ratio_is_to_the_faster_of_two(session: Session, trained: Small) -> None:
    session.show(trained.snapshot())
    rows = session.rows("SELECT rank, ratio FROM heatmap('last', 'forward') WHERE bucket = 0")
    assert sorted(rows) == [(0, 1.0), (1, pytest.approx(36 / 16))]


@pytest.fixture
def served(small: Small) -> Small:
    """Four requests that ended (one by an error), one cancelled, one still waiting."""
    small.run("serving", kind="serving")
    server = small.process(None)
    lives = [(100, 10, 3, "stop"), (200, 10, 3, "length"), (2000, 10, 1, "stop")]
    for number, (ttft, tpot, tokens, reason) in enumerate(lives):
        first, last = 10 + ttft, 10 + ttft + tpot * (tokens - 1)
        small.event(server, "request.arrived", 10, subject=number, attributes={"id": str(number)})
        small.event(server, "request.first_token", first, subject=number)
        ended = {"subject": number, "value": tokens, "attributes": {"reason": reason}}
        small.event(server, "request.finished", last, **ended)
    for number, why in ((3, "error"), (4, "cancelled"), (5, None)):
        small.event(server, "request.arrived", 10, subject=number, attributes={"id": str(number)})
        if why:
            ended = {"subject": number, "value": 0, "attributes": {"reason": why}}
            small.event(server, "request.finished", 20, **ended)
    return small


def test_first_tokens_of_a_server(session: Session, served: Small) -> None:
    session.show(served.snapshot())
    rows = session.rows("SELECT measure, requests, p50 FROM ttft('last')")
    assert rows == [("ttft_s", 3, 0.2), ("tpot_s", 2, 0.01), ("latency_s", 5, pytest.approx(0.12))]


def test_an_slo_counts_errors_as_misses(session: Session, served: Small) -> None:
    """A single token has no time per further token, and so cannot miss that."""
    session.show(served.snapshot())
    asked = "FROM slo('last'{})"
    assert session.rows(asked.format("")) == [(4, 0.5, 0.75, 0.5)]
    assert session.rows(asked.format(", ttft_s := 3")) == [(4, 0.75, 0.75, 0.75)]
    assert session.rows(asked.format(", ttft_s := 0.15, tpot_s := 0.001")) == [(4, 0.25, 0.25, 0.0)]
