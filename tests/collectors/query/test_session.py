"""One snapshot as relations: sealed and hot rows once each, on one clock, found by run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from collectors.errors import DataError, Unreachable, UsageError
from collectors.query.views import VIEWS

if TYPE_CHECKING:
    from collectors.query.session import Session

MS = 1_000_000
T0 = 1_700_000_000_000_000_000
Small = Any  # the conftest's SmallStore


def test_every_view_answers_about_an_empty_store(session: Session, small: Small) -> None:
    """Its columns are there, and have their types, without any file."""
    session.show(small.snapshot())
    for view in VIEWS:
        assert session.rows(f"FROM {view.name}") == []
        assert session.rows(f"DESCRIBE {view.name}")
    shown = session.query("SHOW TABLES").rows
    assert dict(shown) == {view.name: view.about for view in VIEWS}


def test_sealed_and_hot_rows_are_one_table(session: Session, small: Small) -> None:
    """What moves from one tier to the other is neither lost nor there twice."""
    small.run("r")
    process = small.process(0)
    small.span(process, "step", 1, 0, 10)
    first = small.snapshot()
    session.show(first)
    assert session.rows("SELECT step, duration_s FROM spans") == [(1, 0.01)]
    small.span(process, "step", 2, 10, 30)
    small.seal()
    small.span(process, "other", -1, 30, 40)
    session.show(small.snapshot())
    expected = [(1, "step", 0.01), (2, "step", 0.02), (None, "other", 0.01)]
    assert session.rows("SELECT step, name, duration_s FROM spans ORDER BY start_ns") == expected
    assert session.rows("SELECT steps FROM runs") == [(2,)]
    session.show(first)
    assert session.rows("SELECT count(*) FROM spans") == [(1,)]


def test_only_the_files_of_the_run_are_opened(session: Session, small: Small) -> None:
    """A run that is named by 'last' or its beginning prunes like a literal."""
    for run_id in ("a1", "b2"):
        small.run(run_id)
        small.span(small.process(0), "step", 1, 0, 10)
    small.run("c3", kind="serving")
    small.seal()
    session.show(small.snapshot())
    for question in (
        "FROM spans WHERE run_id = 'a1'",
        "FROM spans WHERE run_id = run_named('a')",
        "FROM heatmap('last', 'step')",
        "FROM steps WHERE run_id = training_named('last')",
    ):
        [(_, plan)] = session.rows(f"EXPLAIN ANALYZE {question}")
        assert "Scanning Files: 1/2" in plan, question
        assert "2/2" not in plan, question


def test_a_filter_on_time_reaches_the_files(session: Session, small: Small) -> None:
    """Where all is on one clock, times are plain columns."""
    small.run("r")
    small.span(small.process(0), "step", 1, 0, 10)
    small.seal()
    session.show(small.snapshot())
    [(_, plan)] = session.rows(f"EXPLAIN ANALYZE FROM spans WHERE start_ns < {T0}")
    assert f"start_ns < {T0}" in plan.replace("\n", "")


def test_a_run_is_named_by_id_beginning_or_last(session: Session, small: Small) -> None:
    for run_id in ("2026-a", "2026-b", "2026-b-again"):
        small.run(run_id)
        small.span(small.process(0), "step", 1, 0, 10)
    session.show(small.snapshot())
    for name, run_id in (("last", "2026-b-again"), ("2026-b", "2026-b"), ("2026-a", "2026-a")):
        assert session.rows("SELECT run_named(?)", [name]) == [(run_id,)]
        assert session.rows(f"SELECT run_named('{name}')") == [(run_id,)]
    with pytest.raises(UsageError, match=r"several runs: 2026-b-again, 2026-b, 2026-a"):
        session.query("FROM stragglers('2026')")
    with pytest.raises(UsageError, match="no run is named nope; there are 2026-b-again, 2026-b,"):
        session.query("FROM stragglers('nope')")


def test_a_file_that_is_gone_is_told(session: Session, small: Small) -> None:
    """The caller asks again with a newer snapshot, and the session goes on."""
    small.run("r")
    process = small.process(0)
    small.span(process, "step", 1, 0, 10)
    small.seal()
    sealed_gone = small.snapshot()
    session.show(sealed_gone)
    Path(sealed_gone.tables["span"].parquet[0]).rename(small.path / "kept")
    with pytest.raises(Unreachable, match="is gone"):
        session.query("FROM spans")
    (small.path / "kept").rename(sealed_gone.tables["span"].parquet[0])
    hot_gone = small.snapshot()
    Path(hot_gone.tables["run"].hot[0]).unlink()
    with pytest.raises(Unreachable, match="is gone"):
        session.show(hot_gone)
    session.show(small.snapshot())
    assert session.query("SELECT count(*) FROM spans JOIN runs USING (run_id)").rows == [(1,)]


def test_damage_is_not_called_a_wrong_query(session: Session, small: Small) -> None:
    small.run("r")
    small.span(small.process(0), "step", 1, 0, 10)
    small.seal()
    snapshot = small.snapshot()
    file = Path(snapshot.tables["span"].parquet[0])
    file.write_bytes(b"PAR1" + bytes(200) + b"PAR1")
    with pytest.raises(DataError, match="cannot be read"):
        session.show(snapshot)


def test_times_of_other_hosts_are_moved_onto_one_clock(session: Session, small: Small) -> None:
    """Host b is 5 s ahead and gains 100 ppm; both ranks wait 20 ms at most, and b is not slow."""
    small.run("r")
    a = small.process(0)
    b = small.process(
        1,
        host="beta",
        boot_id="b",
        clock_offset_ns=5_000 * MS,
        clock_drift=1e-4,
        clock_at_ns=T0 + 5_000 * MS,
        clock_error_ns=200_000,
    )
    for process, ahead in ((a, 0.0), (b, 5000.0)):
        small.span(process, "step", 1, 0 + ahead, 50 + ahead)
    small.reduce(a, 1, 10, 30)
    small.reduce(b, 1, 25 + 5000, 30 + 5000)
    small.reduce(a, 2, 1000, 1001)
    small.reduce(b, 2, 1000.1 + 5000, 1001.1 + 5000)  # it gained 0.1 ms in a second
    session.show(small.snapshot())
    rows = session.rows(
        f"SELECT step, rank, round((start_ns - {T0}) / 1000), round(blocked_s * 1e6), clock_error_s"
        " FROM collectives ORDER BY ALL"
    )
    assert rows == [
        (1, 0, 10_000, 14_998, 0.0002),
        (1, 1, 24_998, 0, 0.0004),
        (2, 0, 1_000_000, 0, 0.0002),
        (2, 1, 1_000_000, 0, 0.0004),
    ]
    hosts = "SELECT host, ranks, clock_offset_s, clock_drift_ppm, clock_error_s FROM hosts"
    assert session.rows(f"{hosts} ORDER BY host") == [
        ("alpha", 1, 0.0, 0.0, 0.0),
        ("beta", 1, 5.0, 100.0, 0.0002),
    ]


def test_one_host_has_no_clock_error_and_an_unknown_clock_no_bound(
    session: Session, small: Small
) -> None:
    small.run("r")
    a, b = small.process(0), small.process(1)
    c = small.process(2, host="beta", boot_id="b", clock_error_ns=None)
    for process in (a, b):
        small.reduce(process, 1, 10, 30)
    for process in (a, c):
        small.reduce(process, 1, 10, 30, group="dp[0,2]")
    session.show(small.snapshot())
    found = session.rows('SELECT DISTINCT "group", clock_error_s FROM collectives ORDER BY ALL')
    assert found == [("dp[0,2]", None), ("tp[0,1]", 0.0)]


def test_what_the_daemon_and_diagnoses_record_is_unpacked(session: Session, small: Small) -> None:
    small.run("r")
    own = small.process(None, role="collector")
    finding = {
        **{"kind": "straggler", "ranks": [3], "hosts": ["alpha"], "phase": "forward"},
        **{"cause": "slow_core", "steps": [10, 20], "slowdown": 1.5, "share_lost": 0.1},
        **{"confidence": "likely", "evidence": [{"what": "x"}], "sql": "SELECT 1", "action": "go"},
    }
    small.event(own, "finding", 1, attributes=finding)
    small.event(own, "finding", 2, attributes=finding | {"steps": [10, 40], "slowdown": None})
    small.event(own, "finding", 3, attributes=finding | {"ranks": []})
    beat = {"rank": 3, "role": "trainer", "pid": 7, "state": "running", "rss_bytes": 1, "cpu_s": 2}
    small.event(own, "heartbeat", 1, attributes=beat | {"threads": 4})
    frames = [
        {"function": "f", "file": "a.py", "line": 3},
        {"function": "g", "file": "", "line": 1},
    ]
    thread = {"rank": 3, "pid": 7, "thread": "MainThread", "active": True, "gil": False}
    small.event(own, "stack", 1, attributes=thread | {"frames": frames})
    small.event(own, "stack", 2, attributes={"rank": None, "pid": 8, "error": "not allowed"})
    small.event(own, "alert", 1, attributes={"rule": "slow", "state": "firing", "count": 1})
    session.show(small.snapshot())
    asked = (
        "SELECT ranks, hosts, first_step, last_step, slowdown, at_ns - ? FROM findings ORDER BY 1"
    )
    assert session.rows(asked, [T0]) == [
        ([], ["alpha"], 10, 20, 1.5, 3 * MS),
        ([3], ["alpha"], 10, 40, None, 2 * MS),  # the latest word on this one
    ]
    beats = "SELECT rank, role, pid, state, rss_bytes, cpu_s, threads FROM heartbeats"
    assert session.rows(beats) == [(3, "trainer", 7, "running", 1, 2.0, 4)]
    stacks = "SELECT rank, pid, thread, gil, frames, error FROM stacks ORDER BY pid"
    assert session.rows(stacks) == [
        (3, 7, "MainThread", False, ["f (a.py:3)", "g (:1)"], None),
        (None, 8, None, None, None, "not allowed"),
    ]
    assert session.rows("SELECT rule, state, count FROM alerts") == [("slow", "firing", 1)]


def test_iterations_of_a_server(session: Session, small: Small) -> None:
    """What each computed, and what the cache held when it ended."""
    small.run("r", kind="serving")
    server = small.process(None)
    for step, (name, start, end, held) in enumerate(
        (("prefill", 0, 10, 5), ("mixed", 10, 14, 9), ("decode", 15, 20, None))
    ):
        small.span(server, name, step, start, end)
        if held is not None:
            small.add("sample", server, name="kv_tokens", step=step, at=end, value=held)
    session.show(small.snapshot())
    assert session.rows(
        "SELECT iteration, kind, duration_s, kv_tokens FROM iterations ORDER BY iteration"
    ) == [(0, "prefill", 0.01, 5), (1, "mixed", 0.004, 9), (2, "decode", 0.005, None)]


def test_rollups_are_of_hot_rows_and_of_sealed_ones(session: Session, small: Small) -> None:
    """A second that began before a seal and ended after it is one row."""
    small.run("r")
    process = small.process(0)
    rolled = {"kind": "span", "name": "step", "second": T0 // 10**9, "count": 2, "total": 0.5}
    small.add("rollup", process, **rolled, least=0.2, most=0.3)
    small.seal()
    small.span(process, "step", 3, 500, 600)
    small.add("sample", process, name="loss", step=3, at=1500, value=2.5)
    session.show(small.snapshot())
    assert session.rows(
        "SELECT kind, name, epoch(second) - ?, count, total, mean, least, most FROM rollups"
        " ORDER BY second",
        [T0 // 10**9],
    ) == [
        ("span", "step", 0.0, 3, 0.6, pytest.approx(0.2), 0.1, 0.3),
        ("sample", "loss", 1.0, 1, 2.5, 2.5, 2.5, 2.5),
    ]
    assert session.rows("SELECT (last_ns - ?) / 1e9 FROM hosts", [T0]) == [(2.0,)]


def test_ranks_have_their_coordinates_by_axis(session: Session, small: Small) -> None:
    """Of a rank that was started again, the first process counts."""
    small.run("r")
    small.process(0, coordinates='{"tp": 1, "dp": 0}', pid=2, opened_ns=T0 + 5)
    small.process(0, coordinates='{"tp": 1, "dp": 0}', pid=1)
    session.show(small.snapshot())
    assert session.rows("SELECT rank, pid, tp, pp, dp, sp FROM ranks") == [(0, 1, 1, None, 0, None)]


def test_what_an_answer_holds_can_be_shown_anywhere(session: Session, small: Small) -> None:
    session.show(small.snapshot())
    answer = session.query("SELECT range AS n, -range AS n FROM range(250000)", limit=10)
    assert (len(answer.rows), answer.total, answer.truncated) == (10, 250_000, True)
    assert answer.columns == ["n", "n_1"]
    assert not session.query("FROM range(10)", limit=10).truncated
    [(at,)] = session.query("SELECT make_timestamp_ns(1)").rows  # Python has no nanoseconds
    assert at.microsecond == 0
    with pytest.raises(UsageError, match="cast"):
        session.query("SELECT now() AS at")
    with pytest.raises(UsageError, match="too late"):
        session.query(
            "SELECT CASE WHEN range < 200000 THEN 1 ELSE error('too late') END FROM range(300000)"
        )
    assert session.query("SELECT 1").rows == [(1,)]
