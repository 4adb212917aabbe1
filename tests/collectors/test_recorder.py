"""What is recorded comes back, once, whatever happens to the process that records."""

from __future__ import annotations

import math
import mmap
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.clock import host_name, now_ns, process_lives_since
from collectors.errors import StorageError
from collectors.record import TEXT_LIMIT, Kind
from collectors.recorder import Recorder, open_recorder
from collectors.spool import SpoolReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from collectors.recorder import Identity
    from collectors.spool import Batch

    Rows = Callable[[Iterable[Batch]], list[tuple[Any, ...]]]

INT64 = st.integers(-(2**63), 2**63 - 1)
UINT32 = st.integers(0, 2**32 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=130)


SPANS = st.tuples(st.just(Kind.SPAN), TEXT, INT64, INT64, INT64)
COLLECTIVES = st.tuples(
    st.just(Kind.COLLECTIVE), TEXT, INT64, INT64, INT64, INT64, st.integers(0, 2**53), TEXT, UINT32
)
SAMPLES = st.tuples(st.just(Kind.SAMPLE), TEXT, INT64, st.floats(allow_nan=False))
EVENTS = st.tuples(st.just(Kind.EVENT), TEXT, INT64, st.floats(allow_nan=False), TEXT)


def record(recorder: Recorder, operation: tuple[Any, ...]) -> tuple[Any, ...]:
    """Carry out one operation; returns the row that must come back."""
    kind, name, *rest = operation
    if kind == Kind.SPAN:
        recorder.record_span(name, *rest)
    elif kind == Kind.COLLECTIVE:
        start, end, step, sequence, size, group, members = rest
        recorder.collective(
            name,
            group=group,
            group_size=members,
            sequence=sequence,
            size_bytes=size,
            start_ns=start,
            end_ns=end,
            step=step,
        )
        return (kind, name, start, end, step, sequence, float(size), group, members)
    elif kind == Kind.SAMPLE:
        recorder.sample(name, rest[1], rest[0])
        return (kind, name, rest[0], struct.pack("<d", rest[1]))
    else:
        recorder.event(name, subject=rest[0], value=rest[1], attributes={"text": rest[2]})
        import json

        text = json.dumps({"text": rest[2]}, separators=(",", ":"))
        return (kind, name, rest[0], struct.pack("<d", rest[1]), text)
    return operation


@settings(max_examples=60, deadline=None)
@given(operations=st.lists(SPANS | COLLECTIVES | SAMPLES | EVENTS, max_size=40), data=st.data())
def test_every_record_comes_back_as_it_was(
    identity: Identity, rows: Rows, operations: list[tuple[Any, ...]], data: st.DataObject
) -> None:
    """Read in two goes, the second by a new reader, before and after closing."""
    with tempfile.TemporaryDirectory() as directory:
        recorder = open_recorder(Path(directory), identity)
        middle = data.draw(st.integers(0, len(operations)))
        expected = [record(recorder, operation) for operation in operations[:middle]]
        first = SpoolReader(Path(directory)).poll()
        expected += [record(recorder, operation) for operation in operations[middle:]]
        if data.draw(st.booleans()):
            recorder.close()
        second = SpoolReader(Path(directory), {b.segment: b.position for b in first}).poll()
        recorder.close()
        assert rows([*first, *second]) == expected
        assert all(batch.identity == identity for batch in first + second)


def test_a_span_is_recorded_also_when_its_body_raises(
    rows: Rows, identity: Identity, tmp_path: Path
) -> None:
    recorder = open_recorder(tmp_path, identity)
    with pytest.raises(KeyError), recorder.span("step", 7):
        raise KeyError
    recorder.close()
    [(kind, name, start, end, step)] = rows(SpoolReader(tmp_path).poll())
    assert (kind, name, step) == (Kind.SPAN, "step", 7)
    assert 0 <= end - start < 10**9


def test_long_texts_are_cut_and_say_so(rows: Rows, identity: Identity, tmp_path: Path) -> None:
    recorder = open_recorder(tmp_path, identity)
    recorder.event("é" * 2 * TEXT_LIMIT)
    recorder.event("next", subject=5)
    recorder.close()
    (_, name, *_), (_, following, subject, *_) = rows(SpoolReader(tmp_path).poll())
    assert name.endswith("é…[truncated]")
    assert len(name.encode()) <= TEXT_LIMIT
    assert (following, subject) == ("next", 5)


def test_a_value_that_is_none_leaves_the_rest_readable(
    rows: Rows, identity: Identity, tmp_path: Path
) -> None:
    """The slot of a record that could not be written does not hide the ones behind it."""
    recorder = open_recorder(tmp_path, identity)
    with pytest.raises(struct.error):
        recorder.record_span("a", 1, 2, "no step")  # type: ignore[arg-type]
    recorder.record_span("b", 1, 2, 3)
    recorder.close()
    assert rows(SpoolReader(tmp_path).poll()) == [(Kind.SPAN, "b", 1, 2, 3)]


def test_eight_threads_lose_nothing(rows: Rows, identity: Identity, tmp_path: Path) -> None:
    recorder = open_recorder(tmp_path, identity)

    def work(thread: int) -> None:
        for step in range(3000):
            with recorder.span(f"thread {thread}", step):
                recorder.sample(f"of {thread}", step, step)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # at every chance that the interpreter has
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(usual)
    recorder.close()
    found = Counter(row[:2] for row in rows(SpoolReader(tmp_path).poll()))
    assert found == {
        key: 3000
        for number in range(8)
        for key in ((Kind.SPAN, f"thread {number}"), (Kind.SAMPLE, f"of {number}"))
    }
    assert len(list(tmp_path.iterdir())) > 1, "several segments were needed"


def test_a_signal_handler_may_record(rows: Rows, identity: Identity, tmp_path: Path) -> None:
    """It interrupts the recorder anywhere; what it records is there, or counted as dropped."""
    recorder = open_recorder(tmp_path, identity)
    calls = 0

    def handle(_number: int, _frame: object) -> None:
        nonlocal calls
        calls += 1
        recorder.event(f"signal {calls}", attributes={"call": calls})

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        spans = 0
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            with recorder.span(f"name {spans % 500}", spans):
                spans += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    recorder.close()
    batches = SpoolReader(tmp_path).poll()
    dropped = sum(batch.dropped for batch in batches)
    found = Counter(row[0] for row in rows(batches))
    assert not any(batch.damage for batch in batches)
    assert calls > 20
    assert found[Kind.SPAN] + found[Kind.EVENT] + dropped == spans + calls
    assert dropped < calls / 2


FORKING = """
import os, sys
from pathlib import Path
from collectors.recorder import Identity, open_recorder

identity = Identity(
    run_id="r", role="trainer", rank=3, world_size=8, host="elsewhere", coordinates={}
)
recorder = open_recorder(Path(sys.argv[1]), identity)
recorder.record_span("parent", 0, 1, 0)
for child in range(3):
    if os.fork() == 0:
        for step in range(2000):
            recorder.record_span(f"child {child}", step, step + 1, step)
        if child == 2 and os.fork() == 0:
            recorder.record_span("grandchild", 0, 1, 0)
            os._exit(0)
        os._exit(0)
for step in range(1, 2000):
    recorder.record_span("parent", step, step + 1, step)
for _ in range(3):
    os.wait()
recorder.close()
"""


def run_script(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_forked_children_record_on_their_own(
    rows: Rows, identity: Identity, tmp_path: Path
) -> None:
    """No event twice and none lost; a child that ends by os._exit has not closed anything."""
    run_script(FORKING, str(tmp_path))
    batches = SpoolReader(tmp_path).poll()
    counts = Counter(row[1] for row in rows(batches))
    assert counts.pop("grandchild") == 1
    assert counts == {"parent": 2000, "child 0": 2000, "child 1": 2000, "child 2": 2000}
    assert len({batch.process for batch in batches}) == 5


ENDING = """
import os, signal, sys
from pathlib import Path
from collectors.recorder import Identity, open_recorder

identity = Identity(
    run_id="r", role="trainer", rank=3, world_size=8, host="elsewhere", coordinates={}
)
recorder = open_recorder(Path(sys.argv[1]), identity)
for step in range(2000):
    recorder.record_span(sys.argv[2], step, step + 1, step)
if sys.argv[2] == "before":
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[3], sys.argv[1], "after"])
os._exit(0)
"""


def test_a_process_that_execs_and_leaves_by_exit_loses_nothing(
    rows: Rows, identity: Identity, tmp_path: Path
) -> None:
    """Neither closes its recorder; what comes after exec records as a writer of its own."""
    run_script(ENDING, str(tmp_path), "before", ENDING)
    batches = SpoolReader(tmp_path).poll()
    assert Counter(row[1] for row in rows(batches)) == {"before": 2000, "after": 2000}
    assert len({batch.process for batch in batches}) == 2
    assert len({batch.pid for batch in batches}) == 1


KILLED = """
import mmap, os, struct, sys
from pathlib import Path
from collectors.recorder import Identity, open_recorder

identity = Identity(
    run_id="r", role="trainer", rank=3, world_size=8, host="elsewhere", coordinates={}
)
with open(sys.argv[2], "r+b") as file:
    acknowledged = mmap.mmap(file.fileno(), 8)
recorder = open_recorder(Path(sys.argv[1]), identity)
step = 0
while True:
    recorder.record_span(f"name {step % 700}", step, step + 1, step)
    step += 1
    acknowledged[:] = step.to_bytes(8, "little")  # at once: pack_into writes zeros first
"""


@pytest.mark.parametrize("after_s", [0.02, 0.11, 0.23])
def test_what_was_acknowledged_survives_a_kill(
    rows: Rows, identity: Identity, tmp_path: Path, after_s: float
) -> None:
    counter = tmp_path / "acknowledged"
    counter.write_bytes(bytes(8))
    spool = tmp_path / "spool"
    with counter.open("r+b") as file, mmap.mmap(file.fileno(), 8) as acknowledged:
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(spool), str(counter)],
        )
        deadline = time.monotonic() + 30
        while not struct.unpack_from("<q", acknowledged)[0] and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(after_s)
        assert process.poll() is None, "the writer ended by itself"
        process.kill()
        process.wait(10)
        (count,) = struct.unpack_from("<q", acknowledged)
    assert count > 100
    found = rows(SpoolReader(spool).poll())
    expected = [(Kind.SPAN, f"name {step % 700}", step, step + 1, step) for step in range(count)]
    assert found[:count] == expected
    assert len(found) - count <= 1, "at most the record that was being acknowledged"


FULL = """
import resource, sys
from pathlib import Path
from collectors.recorder import Identity, open_recorder
from collectors.errors import StorageError

identity = Identity(
    run_id="r", role="trainer", rank=3, world_size=8, host="elsewhere", coordinates={}
)

def allow(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

spool = Path(sys.argv[1])
allow(500_000)
try:
    open_recorder(spool, identity)
except StorageError as error:
    print(error.what)
assert not list(spool.iterdir()), "nothing half-written is left"

allow(1_500_000)
recorder = open_recorder(spool, identity)
for step in range(30_000):
    recorder.record_span("a", step, step + 1, step)
allow(resource.RLIM_INFINITY)
import time
time.sleep(1.1)
recorder.record_span("again", 0, 1, 0)
recorder.close()
"""


def test_a_full_disk_drops_and_counts(rows: Rows, identity: Identity, tmp_path: Path) -> None:
    """No exception in the trainer; when there is space again, recording goes on."""
    said = run_script(FULL, str(tmp_path / "spool"))
    assert "no space left" in said
    batches = SpoolReader(tmp_path / "spool").poll()
    found = rows(batches)
    spans = [row for row in found if row[1] == "a"]
    dropped = sum(batch.dropped for batch in batches)
    assert dropped > 0
    assert len(spans) + dropped == 30_000
    assert spans == [(Kind.SPAN, "a", step, step + 1, step) for step in range(len(spans))]
    told = [struct.unpack("<d", row[3])[0] for row in found if row[1] == "opsuite.dropped.always"]
    assert told == [dropped]
    assert found[-1][:2] == (Kind.SPAN, "again")


def test_a_directory_that_cannot_be_written_is_an_error(
    rows: Rows, identity: Identity, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="beginning to record"):
        open_recorder(tmp_path / "file" / "spool", identity)


def test_closing_ends_recording_and_gives_space_back(
    rows: Rows, identity: Identity, tmp_path: Path
) -> None:
    recorder = open_recorder(tmp_path, identity)
    recorder.sample("loss", math.nan, 1)
    recorder.close()
    recorder.close()
    recorder.sample("loss", 1.0, 2)
    with recorder.span("late"):
        pass
    [segment] = list(tmp_path.iterdir())
    assert segment.stat().st_size < 8192
    assert segment.stat().st_mode & 0o777 == 0o600
    assert len(rows(SpoolReader(tmp_path).poll())) == 1


@pytest.mark.parametrize("jump_s", [-3600, 3600])
def test_a_wall_clock_that_jumps_changes_no_order_and_loses_nothing(
    rows: Rows,
    identity: Identity,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    jump_s: int,
) -> None:
    """Each segment says both clocks; events are monotonic, and so is who lives and who came first.

    A writer that lives must not be taken for gone: what it writes later would not be read.
    """
    here = replace(identity, host=host_name())
    monkeypatch.setattr("collectors.spool_room.LEAST_CAP", 1 << 20)  # small segments
    recorder = open_recorder(tmp_path, here, cap_bytes=1)
    reader = SpoolReader(tmp_path)
    batches = []
    real = time.time_ns
    for part in range(4):
        if part == 2:
            monkeypatch.setattr(time, "time_ns", lambda: real() + jump_s * 10**9)
        for step in range(1000):
            with recorder.span("step", part * 1000 + step):
                pass
        batches += reader.poll()
        assert not batches[-1].position.finished
    recorder.close()
    batches += reader.poll()
    found = rows(batches)
    assert [row[4] for row in found] == list(range(4000))
    starts = [row[2] for row in found]
    assert starts == sorted(starts)
    assert all(row[3] >= row[2] for row in found)
    segments = {batch.segment: batch for batch in batches}
    opened = [segments[name].opened_ns for name in sorted(segments)]
    assert opened == sorted(opened)
    anchors = [segments[name].anchor_ns for name in sorted(segments)]
    assert abs(anchors[-1] - anchors[0] - jump_s * 10**9) < 10**9


def test_a_process_is_told_from_a_later_one_of_its_number() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(30)
    assert not process_lives_since(ended.pid, now_ns())
    assert process_lives_since(os.getpid(), now_ns())
    assert not process_lives_since(os.getpid(), 0), "it was not there when the host started"
