"""A run as a trace that Perfetto (ui.perfetto.dev) and Chrome's tracing page open.

Each rank is a process: one track of phases, one of collectives, its samples as counters, its events
as instants. Arrows go from the rank that came last to a collective to those that waited for it.
Times are on the run's common clock, from the begin of the run.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from collectors.exporters.trace_events import TraceFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collectors.query.source import Source

_ROWS_A_PART = 100_000
_NO_RANK = 1_000_000  # process ids from here on: servers and launchers of a host
_ARROW_NS = 1_000  # an arrow leaves this long after the slice began: on its edge is outside of it

_RUN = "SELECT name, started_ns FROM runs WHERE run_id = ?"
_RANKS = "SELECT rank, host, coordinates FROM ranks WHERE run_id = ? ORDER BY rank"
_OTHERS = (
    "SELECT host, string_agg(DISTINCT role, ', ' ORDER BY role) FROM processes"
    " WHERE run_id = ? AND rank IS NULL GROUP BY host ORDER BY host"
)
_SLICE = ("rank", "host", "start_ns", "end_ns", "name", "step")
_PART = ("group", "group_size", "sequence", "size_bytes", "blocked_s", "clock_error_s")
_COLUMNS = {
    "spans": _SLICE,
    "collectives": _SLICE + _PART,
    "samples": ("rank", "host", "at_ns", "name", "value"),
    "events": ("rank", "host", "at_ns", "name", "subject", "value", "attributes"),
}


@dataclass(kw_only=True)
class TraceCounts:
    """What was written.

    Attributes:
        spans, collectives, arrows, samples, events: how many of each.
        not_finite: samples left out because they were NaN or infinite: JSON cannot say that.
    """

    spans: int = 0
    collectives: int = 0
    arrows: int = 0
    samples: int = 0
    events: int = 0
    not_finite: int = 0


def write_perfetto(
    source: Source, run_id: str, file: IO[str], *, steps: range | None = None
) -> TraceCounts:
    """Write a run as trace events, a part of its rows at a time.

    Args:
        source: whoever answers SQL.
        run_id: a run that is there.
        file: where to write the JSON text.
        steps: only the steps from its first to its last, and the events of that time.
    """
    name, started_ns = source.rows(_RUN, [run_id])[0]
    whole, rows = _Rows(source, run_id, None), _Rows(source, run_id, steps)
    first = [begin for view in _COLUMNS if (begin := whole.bounds(view)[1]) is not None]
    about = {"tool": "opsuite", "run_id": run_id, "name": name, "started_ns": started_ns}
    trace = TraceFile(file, about, min([started_ns, *first]))
    export = _Export(trace, _name_processes(trace, source, run_id))
    for view, write in (
        ("spans", export.span),
        ("collectives", export.collective),
        ("samples", export.sample),
        ("events", export.event),
    ):
        for row in rows.of(view):
            write(**row)
    trace.close()
    return export.counts


class _Rows:
    """The rows of a view in the order of time, a bounded number of them in memory."""

    def __init__(self, source: Source, run_id: str, steps: range | None) -> None:
        self._source = source
        self._chosen = "run_id = ?"
        self._parameters: list[Any] = [run_id]
        self._meanwhile = ""
        if steps is not None:
            low, high = (min(steps), max(steps)) if steps else (0, -1)
            self._chosen += " AND step BETWEEN ? AND ?"
            self._parameters += [low, high]
            self._meanwhile = (
                " AND at_ns BETWEEN (SELECT min(start_ns) FROM spans WHERE run_id = ? AND step"
                " BETWEEN ? AND ?) AND (SELECT max(end_ns) FROM spans WHERE run_id = ? AND step"
                " BETWEEN ? AND ?)"
            )

    def _where(self, view: str) -> tuple[str, list[Any]]:
        if view == "events" and self._meanwhile:  # they belong to no step
            return f"run_id = ?{self._meanwhile}", self._parameters[:1] + self._parameters * 2
        return self._chosen, self._parameters

    def bounds(self, view: str) -> tuple[int, int | None, int | None]:
        """How many rows, and when the first and the last begin; None where there are none."""
        time, (where, parameters) = _time(view), self._where(view)
        sql = f"SELECT count(*), min({time}), max({time}) FROM {view} WHERE {where}"  # noqa: S608
        [(count, first, last)] = self._source.rows(sql, parameters)
        return count, first, last

    def of(self, view: str) -> Iterator[dict[str, Any]]:
        """All rows; of those that begin together the longer first."""
        count, first, last = self.bounds(view)
        if first is None or last is None:
            return
        time, (where, parameters) = _time(view), self._where(view)
        order = f"{time}, end_ns DESC, rank, name" if time == "start_ns" else f"{time}, rank, name"
        columns = ", ".join(f'"{name}"' for name in _COLUMNS[view])
        sql = (
            f"SELECT {columns} FROM {view} WHERE {where}"  # noqa: S608 - all of it is from here
            f" AND {time} >= ? AND {time} < ? ORDER BY {order}"
        )
        length = (last - first) // math.ceil(count / _ROWS_A_PART) + 1
        for begin in range(first, last + 1, length):
            for row in self._source.rows(sql, [*parameters, begin, begin + length]):
                yield dict(zip(_COLUMNS[view], row, strict=True))


def _time(view: str) -> str:
    return "start_ns" if "start_ns" in _COLUMNS[view] else "at_ns"


def _name_processes(trace: TraceFile, source: Source, run_id: str) -> dict[str, int]:
    """Name every rank, and per host the rest of its processes; returns those's ids by host."""
    for rank, host, coordinates in source.rows(_RANKS, [run_id]):
        place = ", ".join(f"{axis}={at}" for axis, at in _object(coordinates).items())
        trace.process(rank, f"rank {rank}", f"{host} {place}".rstrip(), rank)
    others = {}
    for number, (host, roles) in enumerate(source.rows(_OTHERS, [run_id])):
        others[host] = pid = _NO_RANK + number
        trace.process(pid, f"{roles} on {host}", host, pid)
    return others


class _Export:
    """Turns rows of the views into events."""

    def __init__(self, trace: TraceFile, others: dict[str, int]) -> None:
        self.counts = TraceCounts()
        self._trace = trace
        self._others = others
        self._meeting: dict[tuple[Any, ...], list[_Part]] = {}  # collectives not complete yet

    def _pid(self, rank: int | None, host: str) -> int:
        if rank is not None:
            return rank
        return self._others.setdefault(host, _NO_RANK + len(self._others))

    def span(
        self,
        *,
        rank: int | None,
        host: str,
        start_ns: int,
        end_ns: int,
        name: str,
        step: int | None,
    ) -> None:
        args = {} if step is None else {"step": step}
        pid = self._pid(rank, host)
        self._trace.slice(pid, name, kind="spans", start_ns=start_ns, end_ns=end_ns, args=args)
        self.counts.spans += 1

    def collective(
        self,
        *,
        rank: int | None,
        host: str,
        start_ns: int,
        end_ns: int,
        name: str,
        step: int | None,
        group: str,
        group_size: int,
        sequence: int,
        size_bytes: int,
        blocked_s: float | None,
        clock_error_s: float | None,
    ) -> None:
        told = {
            "group": group,
            "sequence": sequence,
            "bytes": size_bytes,
            "step": step,
            "blocked_s": blocked_s,
            "clock_error_s": clock_error_s,
        }
        args = {key: value for key, value in told.items() if value is not None}
        pid = self._pid(rank, host)
        tid = self._trace.slice(
            pid, name, kind="collectives", start_ns=start_ns, end_ns=end_ns, args=args
        )
        self.counts.collectives += 1
        if blocked_s is None:
            return  # not all of the group was seen: nobody knows who came last
        parts = self._meeting.setdefault((group, name, sequence, step), [])
        parts.append(_Part(pid, tid, start_ns, end_ns))
        if len(parts) == group_size:
            self._draw_arrows(self._meeting.pop((group, name, sequence, step)))

    def _draw_arrows(self, parts: list[_Part]) -> None:
        last = parts[-1]  # rows come in the order of time
        from_ns = last.inside(last.start_ns + _ARROW_NS)
        for part in parts[:-1]:
            to_ns = part.inside(from_ns)
            if to_ns >= from_ns:  # else it left first: clocks of hosts are known so well only
                ends = (last.pid, last.tid, from_ns), (part.pid, part.tid, to_ns)
                self.counts.arrows += 1
                self._trace.arrow("held up", self.counts.arrows, *ends)

    def sample(self, *, rank: int | None, host: str, at_ns: int, name: str, value: float) -> None:
        if self._trace.counter(self._pid(rank, host), name, at_ns, value):
            self.counts.samples += 1
        else:
            self.counts.not_finite += 1

    def event(
        self,
        *,
        rank: int | None,
        host: str,
        at_ns: int,
        name: str,
        subject: int | None,
        value: float | None,
        attributes: str | None,
    ) -> None:
        args = _object(attributes)
        if subject is not None:
            args["subject"] = subject
        if value is not None:
            args["value"] = value if math.isfinite(value) else str(value)
        self._trace.instant(self._pid(rank, host), name, at_ns, args)
        self.counts.events += 1


@dataclass(frozen=True)
class _Part:
    """A rank's part in a collective."""

    pid: int
    tid: int
    start_ns: int
    end_ns: int

    def inside(self, at_ns: int) -> int:
        """The time inside of the slice that is nearest to this one."""
        return max(min(at_ns, self.end_ns - 1), self.start_ns)


def _object(text: str | None) -> dict[str, Any]:
    """A JSON object; what is none (its end may have been cut off) stands as a text."""
    if not text:
        return {}
    try:
        found = json.loads(text, parse_constant=str)
    except ValueError:
        return {"text": text}
    return found if isinstance(found, dict) else {"text": text}
