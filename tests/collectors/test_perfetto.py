"""Traces by the rules of the trace event format, and saying what was recorded."""

from __future__ import annotations

import io
import json
import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pytest

from collectors.exporters import perfetto
from collectors.exporters.perfetto import TraceCounts, write_perfetto
from collectors.exporters.trace_events import TraceFile
from collectors.query.direct import Store
from collectors.recorder import Identity, open_recorder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from collectors.recorder import Recorder
    from collectors.run import RunDirectory

    OpenRank = Callable[[int | None], Recorder]
    Event = dict[str, Any]

MS = 1_000_000


def export(home: Path, run: RunDirectory, steps: range | None = None) -> tuple[Any, TraceCounts]:
    text = io.StringIO()
    with Store.open(home) as store:
        counts = write_perfetto(store, run.run_id, text, steps=steps)
    trace = strict(text.getvalue())
    check(trace["traceEvents"])
    return trace, counts


def strict(text: str) -> Any:
    """JSON as others read it: without NaN and Infinity."""

    def refuse(word: str) -> NoReturn:
        raise AssertionError(word)

    return json.loads(text, parse_constant=refuse)


def check(events: list[Event]) -> None:
    """The rules: fields and types, slices that nest on their track, arrows from slice to slice."""
    assert Counter(event["ph"] for event in events).keys() <= set("MXCisf")
    for event in events:
        assert isinstance(event["pid"], int)
        assert isinstance(event["name"], str)
        assert event["ph"] in "MC" or isinstance(event["tid"], int)
        assert event["ph"] == "M" or math.isfinite(event["ts"])
        assert event["ph"] != "X" or event["dur"] >= 0
        assert event["ph"] != "C" or math.isfinite(event["args"]["value"])
    tracks = slices_of(events)
    for track in tracks.values():
        check_nesting(track)
    check_arrows(events, tracks)
    named = {event["tid"] for event in events if event["name"] == "thread_name"}
    assert named == {tid for _, tid in tracks}
    assert len(tracks) == len({tid for _, tid in tracks}), "a thread id in two processes"


def slices_of(events: list[Event]) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Begin and end of the slices of every track, in ns, in the order of the file."""
    tracks: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            begin = round(event["ts"] * 1000)
            tracks[event["pid"], event["tid"]].append((begin, begin + round(event["dur"] * 1000)))
    return tracks


def check_nesting(slices: list[tuple[int, int]]) -> None:
    around: list[int] = []
    before = -math.inf
    for begin, end in slices:
        assert begin >= before, "slices of a track come in the order of time"
        before = begin
        while around and around[-1] <= begin:
            around.pop()
        assert not around or end <= around[-1], "slices of a track overlap"
        around.append(end)


def check_arrows(events: list[Event], tracks: dict[tuple[int, int], list[tuple[int, int]]]) -> None:
    arrows: dict[int, dict[str, Event]] = defaultdict(dict)
    for event in events:
        if event["ph"] in "sf":
            assert event["ph"] not in arrows[event["id"]], "an id twice"
            arrows[event["id"]][event["ph"]] = event
    for ends in arrows.values():
        start, finish = ends["s"], ends["f"]
        assert (start["cat"], start["name"]) == (finish["cat"], finish["name"])
        assert finish["bp"] == "e"
        assert start["ts"] <= finish["ts"]
        for event in (start, finish):
            at = round(event["ts"] * 1000)
            track = tracks[event["pid"], event["tid"]]
            assert any(begin <= at < end for begin, end in track), "an arrow beside its slice"


def reduce(recorder: Recorder, arrived: int, left: int, **changes: Any) -> None:
    fields: dict[str, Any] = {
        "group": "dp[0,1]",
        "group_size": 2,
        "sequence": 0,
        "size_bytes": 64,
        "step": 0,
    }
    recorder.collective("all_reduce", start_ns=arrived, end_ns=left, **(fields | changes))


def test_what_was_recorded(home: Path, run: RunDirectory, open_rank: OpenRank) -> None:
    """Rank 1 comes 3 ms after rank 0: one arrow, from it to the one that waited."""
    for rank, arrived in ((0, 10 * MS), (1, 13 * MS)):
        recorder = open_rank(rank)
        recorder.record_span("step", 0, 20 * MS, 0)
        recorder.record_span("forward", 0, 10 * MS, 0)
        reduce(recorder, arrived, 15 * MS)
        reduce(recorder, 16 * MS, 17 * MS, sequence=1, group_size=0)
    recorder.sample("loss", 2.5, 0)
    recorder.sample("loss", math.nan, 1)
    recorder.event("saved", subject=7, value=math.inf, attributes={"bytes": 3, "bad": math.nan})
    open_rank(None).event("request.arrived")
    run.finish("finished", 0)
    trace, counts = export(home, run)
    assert counts == TraceCounts(
        spans=4, collectives=4, arrows=1, samples=1, events=2, not_finite=1
    )
    assert trace["otherData"]["run_id"] == run.run_id
    events = trace["traceEvents"]
    [start, finish] = [event for event in events if event["ph"] in "sf"]
    assert (start["pid"], finish["pid"]) == (1, 0)
    first = next(event for event in events if event["name"] == "all_reduce")
    assert first["pid"] == 0
    assert first["dur"] == 5000
    assert first["args"] == {
        "group": "dp[0,1]",
        "sequence": 0,
        "bytes": 64,
        "step": 0,
        "blocked_s": 0.003,
        "clock_error_s": 0,
    }
    assert finish["ts"] - first["ts"] == pytest.approx(3001)
    [loss] = [event for event in events if event["ph"] == "C"]
    assert (loss["name"], loss["args"]) == ("loss", {"value": 2.5})
    saved, arrived_event = [event for event in events if event["ph"] == "i"]
    assert saved["args"] == {"bytes": 3, "bad": "NaN", "subject": 7, "value": "inf"}
    assert arrived_event["pid"] >= 1_000_000
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names.keys() == {0, 1, arrived_event["pid"]}
    assert names[0] == "rank 0"
    assert names[arrived_event["pid"]].startswith("server on ")
    labels = {e["pid"]: e["args"]["labels"] for e in events if e["name"] == "process_labels"}
    assert labels[1].endswith("tp=1")


def test_spans_that_overlap_get_tracks_of_their_own(
    home: Path, run: RunDirectory, open_rank: OpenRank
) -> None:
    """As threads make them; what nests stays together, and what follows comes back to the first."""
    recorder = open_rank(0)
    for name, begin, end in (
        ("outer", 0, 10),
        ("inner", 0, 4),
        ("crossing", 3, 12),
        ("across", 4, 11),
        ("empty", 5, 5),
        ("after", 12, 13),
    ):
        recorder.record_span(name, begin * MS, end * MS)
    trace, _ = export(home, run)
    track = {e["name"]: e["tid"] for e in trace["traceEvents"] if e["ph"] == "X"}
    assert track["outer"] == track["inner"] == track["empty"] == track["after"]
    assert track["outer"] != track["crossing"]
    assert len({track["outer"], track["crossing"], track["across"]}) == 3 - 1
    names = [e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"]
    assert names == ["spans", "spans 2"]


def test_some_steps_and_what_happened_meanwhile(
    home: Path, run: RunDirectory, open_rank: OpenRank
) -> None:
    """Times stay those of the whole run."""
    recorder = open_rank(0)
    recorder.record_span("before the run", 0, 1)
    for step in range(10):
        recorder.event("begun", subject=step)
        with recorder.span("step", step):
            recorder.event("inside", subject=step)
            recorder.sample("loss", 1.0, step)
            reduce(recorder, 100 * step, 100 * step + 1, step=step, group_size=0)
    whole, _ = export(home, run)
    trace, counts = export(home, run, range(4, 7))
    assert (counts.spans, counts.samples, counts.collectives) == (3, 3, 3)
    slices = [e for e in whole["traceEvents"] if e["ph"] == "X" and e["cat"] == "spans"]
    chosen = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["cat"] == "spans"]
    assert chosen == slices[5:8]
    inside = [e["args"]["subject"] for e in trace["traceEvents"] if e["name"] == "inside"]
    assert inside == [4, 5, 6]
    assert export(home, run, range(50, 60))[1] == TraceCounts()


def test_in_parts_as_in_one(home: Path, run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What many small reads write is what one writes; a collective may lie in several of them."""
    rng = np.random.default_rng(0)
    now = np.zeros(8, dtype=np.int64)
    identity: dict[str, Any] = {
        "run_id": run.run_id,
        "role": "trainer",
        "world_size": 8,
        "host": "here",
    }
    ranks = [
        open_recorder(run.spool, Identity(rank=rank, coordinates={"dp": rank}, **identity))
        for rank in range(8)
    ]
    for step in range(40):
        begun = now.copy()
        now = now + rng.integers(MS, 20 * MS, 8)
        left = now.max() + rng.integers(2_000, MS, 8)
        for rank, recorder in enumerate(ranks):
            recorder.record_span("step", int(begun[rank]), int(left[rank]), step)
            recorder.record_span("forward", int(begun[rank]), int(now[rank]), step)
            span = {"group_size": 8, "sequence": step, "step": step, "group": "dp"}
            reduce(recorder, int(now[rank]), int(left[rank]), **span)
        now = left
    for recorder in ranks:
        recorder.close()
    whole, counts = export(home, run)
    assert counts == TraceCounts(spans=640, collectives=320, arrows=280)
    monkeypatch.setattr(perfetto, "_ROWS_A_PART", 30)
    assert export(home, run) == (whole, counts)


def test_a_run_without_records(home: Path, run: RunDirectory) -> None:
    trace, counts = export(home, run)
    assert (trace["traceEvents"], counts) == ([], TraceCounts())


def test_nothing_but_finite_numbers_is_written() -> None:
    text = io.StringIO()
    trace = TraceFile(text, {"name": 'quotes " and \n lines'}, 5)
    assert trace.counter(0, "loss", 5, 1e308)
    assert not trace.counter(0, "loss", 5, math.inf)
    trace.close()
    assert [event["ts"] for event in strict(text.getvalue())["traceEvents"]] == [0]
