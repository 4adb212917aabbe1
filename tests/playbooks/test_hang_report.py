"""A verdict as people and the store get it."""

from __future__ import annotations

import json

from playbooks.finding import Confidence
from playbooks.hang.observation import Frame
from playbooks.hang.place import Doing, Place
from playbooks.hang.report import finding_of, verdict_lines
from playbooks.hang.verdict import Cause, Culprit, Meeting, Verdict

MEETING = Meeting(
    name="all_reduce", group="default[0-3]", sequence=83, size_bytes=4_200_000, where="train.py:88"
)
LINE = Frame(function="Cache.refill", file="/home/me/cache.py", line=61, text="lock.acquire()")


def verdict(culprit: Culprit, *, meeting: Meeting | None = MEETING) -> Verdict:
    return Verdict(
        silence_s=16.2,
        step=41,
        cause=culprit.cause,
        culprits=(culprit,),
        meeting=meeting,
        waiting=(0, 2, 3) if meeting else (),
        confidence=Confidence.CERTAIN,
    )


def culprit(cause: Cause, **more: object) -> Culprit:
    return Culprit(rank=1, host="host-a", pid=77, cause=cause, **more)  # type: ignore[arg-type]


def told(found: Verdict) -> list[str]:
    return verdict_lines(found, "run-1", bundle="/runs/hang-1.zip")


def test_a_rank_in_a_lock() -> None:
    place = Place(doing=Doing.LOCK, user=LINE)
    lines = told(verdict(culprit(Cause.LOCK, place=place, busy=False)))
    assert lines[:3] == [
        "run run-1 has stopped stepping: nothing has moved for 16 s (step 41)",
        "rank 1 on host-a never came to all_reduce #83 of default[0-3] (4.2 MB), "
        "in which ranks 0,2,3 have waited for 16 s (train.py:88)",
        "rank 1 waits for another thread at cache.py:61 in refill: lock.acquire() [idle]",
    ]
    assert 'opsuite query "SELECT' in lines[3]
    assert lines[4] == "bundle: /runs/hang-1.zip"


def test_other_causes() -> None:
    line = Place(doing=Doing.LOADER, user=LINE, child="loader worker 8")
    cases = {
        "rank 1 waits for its loader worker 8, which is at cache.py:61": culprit(
            Cause.LOADER, place=line
        ),
        "rank 1 is stopped by a signal or a debugger (process 77)": culprit(Cause.STOPPED),
        "rank 1 has ended (process 77): ValueError: no": culprit(
            Cause.GONE, last_words="Traceback\nValueError: no\n"
        ),
        "rank 1 has ended (process 77) without a word": culprit(Cause.GONE),
        "rank 1 is in the wrong collective: barrier #84 at odd.py:9": culprit(
            Cause.MISMATCH, meeting=Meeting(name="barrier", sequence=84, where="odd.py:9")
        ),
        "the device of rank 1 does not complete all_reduce #83": culprit(
            Cause.DEVICE, meeting=MEETING
        ),
        "no stack of it was read (process 77)": culprit(Cause.UNKNOWN),
    }
    for words, guilty in cases.items():
        assert words in told(verdict(guilty))[2]
    elsewhere = Culprit(rank=9, host="", pid=None, cause=Cause.ELSEWHERE)
    assert "rank 9 on a host not seen from here never came" in told(verdict(elsewhere))[1]


def test_a_rank_that_waits_for_a_thread_of_its_own() -> None:
    thread = Frame(function="produce", file="/home/me/data.py", line=7, text="lock.acquire()")
    alone = Place(doing=Doing.QUEUE, user=LINE)
    lines = told(verdict(culprit(Cause.QUEUE, place=alone)))
    assert "rank 1 waits for a thread of its own" in lines[2]
    assert "has no other Python thread that could ever do so" in lines[3]
    with_thread = Place(doing=Doing.QUEUE, user=LINE, threads=(thread,))
    lines = told(verdict(culprit(Cause.QUEUE, place=with_thread)))
    assert lines[3] == "another thread of rank 1 is at data.py:7 in produce: lock.acquire()"


def test_facts_without_figures_are_rendered_without() -> None:
    from tui.findings import render_finding

    found = finding_of(verdict(culprit(Cause.STOPPED)), "run-1", elapsed_s=160.0)
    lines = [line for line in render_finding(1, found).splitlines() if "evidence" in line]
    assert lines[0].endswith("nothing has moved: 16.2 s")
    assert lines[1].endswith("(4.2 MB): 3 ranks; members of the group: 4 ranks")
    assert lines[2].endswith("rank 1 is stopped by a signal or a debugger (process 77)")


def test_nobody_waits_and_nobody_is_to_blame() -> None:
    alone = verdict(culprit(Cause.LOCK, place=Place(doing=Doing.LOCK, user=LINE)), meeting=None)
    assert told(alone)[1] == "rank 1 on host-a does not go on"
    nobody = Verdict(
        silence_s=16,
        step=None,
        cause=Cause.UNKNOWN,
        culprits=(),
        meeting=MEETING,
        waiting=(0, 1, 2, 3),
        confidence=Confidence.POSSIBLE,
    )
    assert told(nobody)[0].endswith("nothing has moved for 16 s")
    assert "all that are seen have come to all_reduce #83" in told(nobody)[1]


def test_the_finding_fits_into_an_event() -> None:
    found = finding_of(verdict(culprit(Cause.STOPPED)), "run-1", elapsed_s=160.0)
    data = json.loads(json.dumps(found.to_json()))
    assert (data["kind"], data["cause"], data["steps"]) == ("hang", "stopped", [41, 41])
    assert (data["ranks"], data["hosts"], data["phase"]) == ([1], ["host-a"], "all_reduce")
    assert "kill -CONT 77" in data["action"]
    assert data["share_lost"] < 0.11
    many = tuple(culprit(Cause.GONE) for _ in range(1000))
    crowd = Verdict(
        silence_s=1,
        step=1,
        cause=Cause.GONE,
        culprits=many,
        meeting=MEETING,
        waiting=(0,),
        confidence=Confidence.CERTAIN,
    )
    assert len(json.dumps(finding_of(crowd, "run-1", elapsed_s=9).to_json())) < 15_000
    assert verdict_lines(crowd, "run-1")[-2] == "and 992 more ranks"
