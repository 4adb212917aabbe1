"""A verdict in the words of people, and as a finding."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from collectors.membership import members_of
from playbooks.finding import Evidence, Finding
from playbooks.hang.place import line_of
from playbooks.hang.verdict import Cause

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from playbooks.hang.observation import Frame
    from playbooks.hang.place import Place
    from playbooks.hang.verdict import Culprit, Excuse, Meeting, Verdict

_MOST_CULPRITS = 8  # told one by one
_MOST_WORDS = 300
_MOST_THREADS = 3
_ACTIONS = {
    Cause.GONE: "see the end of its log, and the kernel's log for the OOM killer; start the run "
    "again from its last checkpoint",
    Cause.STOPPED: "let it go on: kill -CONT {pid}; find out who stopped it",
    Cause.MISMATCH: "make all ranks call the same collectives in the same order, with the same "
    "sizes, types and roots, at the lines named",
    Cause.LOADER: "look at the line named: what it reads (disk, network, a worker) does not come",
    Cause.LOCK: "look at the line named, and at the other stacks of the rank: who holds the lock",
    Cause.QUEUE: "look at the rank's thread at the other end of the queue: whether it is there, "
    "and what it waits for",
    Cause.DEVICE: "look at the rank's GPU and links (samples and events of this time), then try "
    "it without this device",
    Cause.BEFORE_COLLECTIVE: "look at the line named: the rank is there instead of in the "
    "collective",
    Cause.ELSEWHERE: "ask opsuite on the hosts of these ranks, and look at the network between",
    Cause.UNKNOWN: "look at the stacks of all ranks",
}


def verdict_lines(verdict: Verdict, run_id: str, *, bundle: str = "") -> list[str]:
    """What to print of a verdict, the most important after the headline.

    Args:
        bundle: where the bundle lies, or will.
    """
    step = "" if verdict.step is None else f" (step {verdict.step})"
    name = f"run {run_id}" if run_id else "the job"
    headline = f"{name} has stopped stepping: nothing has moved for {verdict.silence_s:.0f} s{step}"
    sql = f'opsuite query "{stacks_sql(run_id)}"' if run_id else ""
    evidence = [f"evidence: stacks of all ranks: {sql}"] if sql else []
    if bundle:
        evidence.append(f"bundle: {bundle}")
    return [headline, *culprit_lines(verdict), *evidence]


def culprit_lines(verdict: Verdict) -> list[str]:
    """Who never came to what, and where they are."""
    if not verdict.culprits:
        who = _ranks(verdict.waiting)
        return [
            f"all that are seen have come to {_meeting(verdict.meeting)} ({who}), and it does not "
            "end: look at the network and the devices"
        ]
    lines = [_never_came(verdict)]
    odd = _argument(verdict)
    for culprit in verdict.culprits[:_MOST_CULPRITS]:
        lines += _whereabouts(culprit, odd)
    left_out = len(verdict.culprits) - _MOST_CULPRITS
    return [*lines, f"and {left_out} more ranks"] if left_out > 0 else lines


def excuse_line(excuse: Excuse, silence_s: float) -> str:
    """That somebody looked, and why nothing was said."""
    where = f" ({excuse.where})" if excuse.where else ""
    return f"nothing has moved for {silence_s:.0f} s: rank {excuse.rank} {excuse.what}{where}"


def finding_of(verdict: Verdict, run_id: str, *, elapsed_s: float) -> Finding:
    """The verdict as a finding of its run, which is ``elapsed_s`` old."""
    step = -1 if verdict.step is None else verdict.step
    ranks = tuple(culprit.rank for culprit in verdict.culprits)
    pids = " ".join(str(each.pid) for each in verdict.culprits if each.pid is not None)
    return Finding(
        kind="hang",
        ranks=ranks,
        hosts=tuple(dict.fromkeys(each.host for each in verdict.culprits if each.host)),
        phase=verdict.meeting.name if verdict.meeting else "step",
        cause=str(verdict.cause),
        first_step=step,
        last_step=step,
        slowdown=None,
        share_lost=min(1.0, verdict.silence_s / elapsed_s) if elapsed_s > 0 else 1.0,
        confidence=verdict.confidence,
        evidence=tuple(_evidence(verdict)),
        sql=stacks_sql(run_id, ranks),
        action=_ACTIONS[verdict.cause].format(pid=pids),
    )


def stacks_sql(run_id: str, ranks: Iterable[int] = ()) -> str:
    """The query that shows the stacks that were taken."""
    chosen = ", ".join(str(rank) for rank in ranks)
    only = f" AND rank IN ({chosen})" if chosen else ""
    return (
        "SELECT rank, thread, active, frames, error FROM stacks "  # noqa: S608 - for people
        f"WHERE run_id = '{run_id}'{only} ORDER BY at_ns DESC, rank"
    )


def _never_came(verdict: Verdict) -> str:
    seen = [culprit for culprit in verdict.culprits if culprit.host]
    hosts = ", ".join(dict.fromkeys(culprit.host for culprit in seen))
    who = _ranks([culprit.rank for culprit in verdict.culprits])
    who = f"{who} on {hosts or 'a host not seen from here'}"
    if verdict.confidence != "certain":
        who = f"{verdict.confidence}: {who}"
    if verdict.meeting is None:
        return f"{who} does not go on" if len(verdict.culprits) == 1 else f"{who} do not go on"
    waiting = [rank for rank in verdict.waiting if rank not in _numbers(verdict.culprits)]
    verb = "has" if len(waiting) == 1 else "have"
    where = f" ({verdict.meeting.where})" if verdict.meeting.where else ""
    told = _meeting(verdict.meeting)
    odd = _argument(verdict)
    if odd:
        call = _meeting(replace(verdict.meeting, size_bytes=None))
        others = f"{_ranks(waiting)} ({_value(verdict.meeting, odd)})" if waiting else ""
        compared = f"another {odd} than {others}" if waiting else f"different {odd}s"
        return f"{who} called {call} with {compared}, and wait for {verdict.silence_s:.0f} s{where}"
    if not waiting:
        return f"{who}: not all in the same collective, for {verdict.silence_s:.0f} s"
    return (
        f"{who} never came to {told}, in which {_ranks(waiting)} {verb} waited for "
        f"{verdict.silence_s:.0f} s{where}"
    )


def _argument(verdict: Verdict) -> str:
    """What the culprits called the very collective with that the others called with something
    else: "root", "type", "shape", "size" or "line"; "": it is another collective."""
    meetings = [*(each.meeting for each in verdict.culprits), verdict.meeting]
    known = [meeting for meeting in meetings if meeting is not None]
    calls = {(each.name, each.group, each.sequence) for each in known}
    if verdict.cause is not Cause.MISMATCH or len(known) < len(meetings) or len(calls) > 1:
        return ""
    for argument in ("root", "type", "shape", "size", "line"):
        if len({_value(meeting, argument) for meeting in known} - {""}) > 1:
            return argument
    return ""


def _value(meeting: Meeting, argument: str) -> str:
    given = dict(meeting.given)
    told = {
        "root": given.get("root", ""),
        "type": given.get("type", ""),
        "shape": given.get("sizes", ""),
        "size": _size(meeting.size_bytes) if meeting.size_bytes else "",
        "line": meeting.where,
    }
    return told[argument]


def _whereabouts(culprit: Culprit, odd: str = "") -> list[str]:
    name, process = f"rank {culprit.rank}", f"(process {culprit.pid})"
    line = _line(culprit.place)
    at = f", at {line}" if line else ""
    if culprit.cause is Cause.ELSEWHERE:
        return []
    if culprit.cause is Cause.GONE:
        return [f"{name} has ended {process}{_last_words(culprit)}"]
    if culprit.cause is Cause.STOPPED:
        return [f"{name} is stopped by a signal or a debugger {process}{at}"]
    if culprit.meeting is not None:
        return [_in_meeting(culprit, culprit.meeting, at, odd)]
    if culprit.place is None:
        return [f"{name}: where it is cannot be seen, no stack of it was read {process}"]
    state = {None: "", True: " [busy]", False: " [idle]"}[culprit.busy]
    told = f"{name} {_doing(culprit.place)} at {line or 'an unknown line'}{state}"
    return [told, *_other_threads(name, culprit)]


def _other_threads(name: str, culprit: Culprit) -> list[str]:
    """Who could let a rank go on that waits for one of its own threads."""
    if culprit.cause not in (Cause.LOCK, Cause.QUEUE) or culprit.place is None:
        return []
    threads = culprit.place.threads
    if threads:
        return [f"another thread of {name} is at {_code(each)}" for each in threads[:_MOST_THREADS]]
    if culprit.cause is Cause.LOCK:
        return []
    return [f"{name} has no other Python thread that could ever do so: it has ended, or never was"]


def _in_meeting(culprit: Culprit, meeting: Meeting, at: str, odd: str) -> str:
    if culprit.cause is Cause.DEVICE:
        return f"the device of rank {culprit.rank} does not complete {_meeting(meeting)}{at}"
    where = meeting.where or (culprit.place.line if culprit.place else "")
    called = f" at {where}" if where else ""
    if odd and odd != "line":
        return f"rank {culprit.rank} called it with {_value(meeting, odd) or f'no {odd}'}{called}"
    return f"rank {culprit.rank} is in the wrong collective: {_meeting(meeting)}{called}"


def _doing(place: Place) -> str:
    if place.child:
        return f"waits for its {place.child}, which is"
    return str(place.doing)


def _line(place: Place | None) -> str:
    """The user's line as ``train.py:61 in refill: second.acquire()``."""
    if place is None or place.user is None:
        return ""
    return _code(place.user)


def _code(frame: Frame) -> str:
    text = f": {frame.text}" if frame.text else ""
    return f"{line_of(frame)} in {frame.function.rpartition('.')[2]}{text}"


def _last_words(culprit: Culprit) -> str:
    lines = culprit.last_words.strip().splitlines()
    return f": {lines[-1][:_MOST_WORDS]}" if lines else " without a word"


def _meeting(meeting: Meeting | None) -> str:
    if meeting is None:
        return "a collective"
    number = f" #{meeting.sequence}" if meeting.sequence >= 0 else ""
    group = f" of {meeting.group}" if meeting.group else ""
    size = f" ({_size(meeting.size_bytes)})" if meeting.size_bytes else ""
    return f"{meeting.name}{number}{group}{size}"


def _size(size_bytes: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} B"


def _ranks(ranks: Sequence[int]) -> str:
    from collectors.membership import group_name

    return f"rank{'s' if len(ranks) > 1 else ''} {group_name('', ranks)[1:-1]}"


def _numbers(culprits: Sequence[Culprit]) -> set[int]:
    return {culprit.rank for culprit in culprits}


def _evidence(verdict: Verdict) -> Iterable[Evidence]:
    yield Evidence(
        what="nothing has moved", value=verdict.silence_s, against="", baseline=None, unit="s"
    )
    if verdict.meeting is not None:
        members = members_of(verdict.meeting.group)
        yield Evidence(
            what=f"ranks that wait in {_meeting(verdict.meeting)}",
            value=float(len(verdict.waiting)),
            against="members of the group" if members else "",
            baseline=float(len(members)) if members else None,
            unit="ranks",
        )
    for line in culprit_lines(verdict)[1:]:
        yield Evidence(what=line, value=None, against="", baseline=None, unit="")
