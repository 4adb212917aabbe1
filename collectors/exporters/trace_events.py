"""A file in Chrome's trace event format, written event by event; Perfetto opens it.

Times go in as nanoseconds and stand in the file as microseconds.
"""

from __future__ import annotations

import json
import math
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_TRACKS = 1000  # of a process; so thread ids are unique in the whole file


class TraceFile:
    """Writes ``{"displayTimeUnit": ..., "otherData": ..., "traceEvents": [...]}`` as strict JSON.

    Args:
        file: where to write.
        about: facts about the whole trace, JSON values.
        begin_ns: what time 0 is.
    """

    def __init__(self, file: IO[str], about: Mapping[str, Any], begin_ns: int) -> None:
        self._file = file
        self._begin_ns = begin_ns
        self._written = 0
        self._tracks: dict[int, list[_Track]] = {}
        head = json.dumps({"displayTimeUnit": "ms", "otherData": about}, allow_nan=False)
        file.write(f'{head[:-1]}, "traceEvents": [')

    def close(self) -> None:
        """Write the end; the file is left open."""
        self._file.write("\n]}\n")

    def _write(self, phase: str, pid: int, name: str, **fields: object) -> None:
        event = {"ph": phase, "pid": pid, "name": name, **fields}
        self._file.write((",\n" if self._written else "\n") + _encode(event))
        self._written += 1

    def _us(self, at_ns: int) -> float:
        return (at_ns - self._begin_ns) / 1000

    def process(self, pid: int, name: str, labels: str, place: int) -> None:
        """Name a process, and say where it stands among the others."""
        self._write("M", pid, "process_name", args={"name": name})
        self._write("M", pid, "process_labels", args={"labels": labels})
        self._write("M", pid, "process_sort_index", args={"sort_index": place})

    def slice(
        self,
        pid: int,
        name: str,
        *,
        kind: str,
        start_ns: int,
        end_ns: int,
        args: Mapping[str, Any],
    ) -> int:
        """Write what took time, and return its track's id.

        Slices of a process come by their start, the longer first. One that would overlap
        another without lying inside of it goes to a further track of its kind.
        """
        track = self._track(pid, kind, start_ns, end_ns)
        fields = {"ts": self._us(start_ns), "dur": (end_ns - start_ns) / 1000, "args": args}
        self._write("X", pid, name, tid=track.tid, cat=kind, **fields)
        return track.tid

    def _track(self, pid: int, kind: str, start_ns: int, end_ns: int) -> _Track:
        tracks = self._tracks.setdefault(pid, [])
        same = [track for track in tracks if track.kind == kind]
        for track in same:
            if track.take(start_ns, end_ns):
                return track
        track = _Track(kind, (pid + 1) * _TRACKS + len(tracks) + 1)
        tracks.append(track)
        track.take(start_ns, end_ns)
        name = f"{kind} {len(same) + 1}" if same else kind
        self._write("M", pid, "thread_name", tid=track.tid, args={"name": name})
        self._write("M", pid, "thread_sort_index", tid=track.tid, args={"sort_index": len(tracks)})
        return track

    def arrow(
        self, name: str, number: int, start: tuple[int, int, int], end: tuple[int, int, int]
    ) -> None:
        """Write an arrow between slices; ``start`` and ``end`` are (pid, tid, ns inside of it)."""
        for phase, (pid, tid, at_ns), more in (("s", start, {}), ("f", end, {"bp": "e"})):
            fields = {"tid": tid, "ts": self._us(at_ns), "id": number, "cat": "arrow", **more}
            self._write(phase, pid, name, **fields)

    def counter(self, pid: int, name: str, at_ns: int, value: float) -> bool:
        """Write a measured value; JSON has no word for one that is not finite: False."""
        if not math.isfinite(value):
            return False
        self._write("C", pid, name, ts=self._us(at_ns), args={"value": value})
        return True

    def instant(self, pid: int, name: str, at_ns: int, args: Mapping[str, Any]) -> None:
        """Write what happened at an instant."""
        self._write("i", pid, name, ts=self._us(at_ns), s="p", tid=(pid + 1) * _TRACKS, args=args)


class _Track:
    """A track on which slices nest properly."""

    def __init__(self, kind: str, tid: int) -> None:
        self.kind = kind
        self.tid = tid
        self._open: list[int] = []  # ends of the slices around here, the outermost first

    def take(self, start_ns: int, end_ns: int) -> bool:
        """Whether a slice fits here."""
        while self._open and self._open[-1] <= start_ns:
            self._open.pop()
        if self._open and self._open[-1] < end_ns:
            return False
        self._open.append(end_ns)
        return True
