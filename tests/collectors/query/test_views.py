"""Own, blocked and transfer time on cases computed by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from collectors.query.direct import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from collectors.recorder import Recorder
    from collectors.run import RunDirectory

    OpenRank = Callable[[int | None], Recorder]

MS = 1_000_000


def reduce(recorder: Recorder, start: int, end: int, **changes: Any) -> None:
    """An all-reduce of two ranks in step 0, times in ms."""
    fields: dict[str, Any] = {
        "group": "tp[0,1]",
        "group_size": 2,
        "sequence": 0,
        "size_bytes": 8,
        "step": 0,
    }
    recorder.collective("all_reduce", start_ns=start * MS, end_ns=end * MS, **(fields | changes))


def phase(recorder: Recorder, name: str, start: int, end: int, step: int = 0) -> None:
    recorder.record_span(name, start * MS, end * MS, step)


def milliseconds(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [tuple(round(x * 1e3, 6) if isinstance(x, float) else x for x in row) for row in rows]


def phases_of(home: Path) -> list[tuple[Any, ...]]:
    with Store.open(home) as store:
        return milliseconds(
            store.rows(
                "SELECT phase, rank, duration_s, own_s, blocked_s, transfer_s"
                " FROM phases ORDER BY ALL"
            )
        )


def test_the_rank_that_waits_is_not_the_slow_one(
    home: Path, run: RunDirectory, open_rank: OpenRank
) -> None:
    """Rank 1 computes 30 ms and arrives at 30; rank 0 computes 10 and waits 20 for it."""
    for rank, arrival in ((0, 10), (1, 30)):
        recorder = open_rank(rank)
        phase(recorder, "step", 0, 50)
        phase(recorder, "forward", 0, 34)
        phase(recorder, "backward", 34, 50)
        reduce(recorder, arrival, 34)
    assert phases_of(home) == [
        ("backward", 0, 16.0, 16.0, 0.0, 0.0),
        ("backward", 1, 16.0, 16.0, 0.0, 0.0),
        ("forward", 0, 34.0, 10.0, 20.0, 4.0),
        ("forward", 1, 34.0, 30.0, 0.0, 4.0),
    ]
    with Store.open(home) as store:
        steps = store.rows("SELECT rank, duration_s, own_s, blocked_s, transfer_s FROM steps")
    assert sorted(milliseconds(steps)) == [(0, 50.0, 26.0, 20.0, 4.0), (1, 50.0, 46.0, 0.0, 4.0)]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"sequence": 1}, id="the other is another one"),
        pytest.param({"group": "dp[0,1]"}, id="the other is of another group"),
        pytest.param({"step": 1}, id="the other is of another step"),
        pytest.param({"group_size": 0}, id="membership unknown"),
        pytest.param({"group_size": 3}, id="a third rank was never seen"),
    ],
)
def test_blocked_is_null_where_the_group_was_not_fully_seen(
    home: Path, run: RunDirectory, open_rank: OpenRank, changes: dict[str, Any]
) -> None:
    """Own time needs nobody else, and is there all the same."""
    mine, other = open_rank(0), open_rank(1)
    phase(mine, "forward", 0, 20)
    reduce(mine, 5, 15, **({"group_size": 3} if changes == {"group_size": 3} else {}))
    reduce(other, 12, 15, **changes)
    expected: list[tuple[Any, ...]] = [("forward", 0, 20.0, 10.0, None, None)]
    if changes == {"group_size": 0}:
        expected = [("forward", 0, 20.0, 10.0, 7.0, 3.0)]  # mine knows its size: both were seen
    assert phases_of(home) == expected


def test_one_rank_seen_twice_is_no_group(
    home: Path, run: RunDirectory, open_rank: OpenRank
) -> None:
    """A rank that was started again repeats its sequence numbers; the other never arrived."""
    first, again = open_rank(0), open_rank(0)
    for recorder in (first, again):
        reduce(recorder, 5, 15)
    with Store.open(home) as store:
        assert store.rows("SELECT rank, blocked_s FROM collectives") == [(0, None), (0, None)]


def test_blocked_is_at_most_the_duration(
    home: Path, run: RunDirectory, open_rank: OpenRank
) -> None:
    """The source of a broadcast may leave before the last one comes."""
    reduce(open_rank(0), 0, 2)
    reduce(open_rank(1), 10, 12)
    with Store.open(home) as store:
        rows = store.rows("SELECT rank, blocked_s FROM collectives ORDER BY rank")
    assert milliseconds(rows) == [(0, 2.0), (1, 0.0)]


def test_phases_of_micro_batches_are_summed(
    home: Path, run: RunDirectory, open_rank: OpenRank
) -> None:
    recorders = [open_rank(0), open_rank(1)]
    for recorder, late in zip(recorders, (0, 3), strict=True):
        for batch in range(2):
            start = 20 * batch
            phase(recorder, "forward", start, start + 10)
            reduce(recorder, start + 2 + late, start + 8, sequence=batch)
        reduce(recorder, 45, 48, sequence=2)
    assert phases_of(home) == [
        ("forward", 0, 20.0, 8.0, 6.0, 6.0),
        ("forward", 1, 20.0, 14.0, 0.0, 6.0),
    ]


def test_steps_carry_what_was_sampled(home: Path, run: RunDirectory, open_rank: OpenRank) -> None:
    """What was not sampled is NULL; spans outside of steps make no phases."""
    recorder = open_rank(0)
    for step in range(3):
        phase(recorder, "step", 10 * step, 10 * step + 9, step)
        recorder.sample("loss", 3.0 - step, step)
    recorder.sample("tokens", 512, 1)
    phase(recorder, "compile", 0, 5, -1)
    run.finish("finished", 0)
    with Store.open(home) as store:
        assert store.rows("SELECT step, loss, tokens, grad_norm FROM steps ORDER BY step") == [
            (0, 3.0, None, None),
            (1, 2.0, 512.0, None),
            (2, 1.0, None, None),
        ]
        assert store.rows("SELECT steps, loss, status, exit_code FROM runs") == [
            (3, 1.0, "finished", 0)
        ]
        assert store.rows("SELECT step FROM spans WHERE name = 'compile'") == [(None,)]
        assert store.rows("FROM phases") == []


def test_the_truth_about_faults_is_apart(
    home: Path, run: RunDirectory, open_rank: OpenRank
) -> None:
    recorder = open_rank(0)
    recorder.event("fault.slow-rank", subject=1, attributes={"steps": "60-110"})
    recorder.event("saved")
    with Store.open(home) as store:
        assert store.rows("SELECT name, subject, value FROM events") == [("saved", None, None)]
        assert store.rows("SELECT name, subject, attributes FROM faults") == [
            ("fault.slow-rank", 1, '{"steps":"60-110"}')
        ]


def test_a_requests_life(home: Path, run: RunDirectory, open_rank: OpenRank) -> None:
    """The second one is still waiting: what has not happened is NULL."""
    server = open_rank(None)
    for number in (0, 1):
        attributes = {"id": f"cmpl-{number}", "prompt_tokens": 5}
        server.event("request.arrived", subject=number, attributes=attributes)
    server.event("request.scheduled", subject=0)
    server.event("request.first_token", subject=0)
    server.event("request.finished", subject=0, value=9, attributes={"reason": "stop"})
    with Store.open(home) as store:
        [finished, waiting] = store.rows(
            "SELECT id, prompt_tokens, output_tokens, reason, queue_s <= ttft_s,"
            " abs(latency_s - ttft_s - 8 * tpot_s) < 1e-9 FROM requests ORDER BY request"
        )
        assert finished == ("cmpl-0", 5, 9, "stop", True, True)
        assert waiting == ("cmpl-1", 5, None, None, None, None)
        assert store.rows("SELECT count(*) FROM ranks") == [(0,)]
        assert store.rows("SELECT role, rank FROM processes") == [("server", None)]
