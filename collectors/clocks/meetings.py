"""Which rows are of one collective, and what it says about the clocks of its hosts.

Rows of one collective come in different batches, as the spools of the hosts are read. A row waits
for the rest of its group until too many wait; what then is there is used without the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from collectors.clocks.alignment import Constraints

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

SYNCHRONISING = frozenset({"all_reduce", "all_gather", "reduce_scatter", "barrier", "all_to_all"})
"""Nobody leaves one of these before the last has come. Not so: broadcast, reduce, send, recv."""
_MOST_ROWS = 200_000  # a batch; of more, the same part of the collectives is taken of every host
_MOST_WAITING = 100_000
_INTEGERS = ("process", "group_size", "sequence", "step", "start_ns", "end_ns")

_ROW = np.dtype(
    [
        ("key", "u8"),  # which collective it is of
        ("process", "i8"),
        ("clock", "i8"),
        ("group", "u8"),
        ("size", "i8"),
        ("start_ns", "i8"),
        ("end_ns", "i8"),
        ("batch", "i8"),  # the number of the batch that it came with
    ]
)

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class CollectiveRows:
    """Columns of ``raw.collective`` of one run, N rows.

    Attributes:
        process: number of the process, int64 [N].
        group, name: index into ``texts``, int [N].
        group_size: members; 0 where arrivals were not seen (such rows say nothing of clocks).
        sequence, step, start_ns, end_ns: int64 [N].
        texts: names of collectives and groups.
    """

    process: NDArray[np.int64]
    group: NDArray[np.int64]
    name: NDArray[np.int64]
    group_size: NDArray[np.int64]
    sequence: NDArray[np.int64]
    step: NDArray[np.int64]
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    texts: Sequence[str]

    @classmethod
    def of_table(cls, table: pa.Table) -> Self:
        """The rows of an Arrow table with the columns of ``raw.collective``."""
        texts: dict[str, int] = {}
        columns = {name: _codes(table, name, texts) for name in ("group", "name")}
        for name in _INTEGERS:
            columns[name] = table.column(name).to_numpy().astype(np.int64, copy=False)
        return cls(**columns, texts=list(texts))


class Meetings:
    """Matches the rows of collectives that more than one host took part in.

    Attributes:
        unmatched: how many rows came since they were matched.
    """

    def __init__(self) -> None:
        self._texts: dict[str, int] = {}
        self._lives: dict[int, int] = {}  # process -> which life of its rank it is
        self._born: dict[int, int] = {}  # rank -> lives so far
        self._local: set[int] = set()  # groups within one host
        self._waiting = np.empty(0, dtype=_ROW)
        self._fresh: list[NDArray[np.void]] = []
        self._batches = 0
        self.unmatched = 0

    def match(self, order: NDArray[np.int64]) -> list[tuple[Pair, Constraints]]:
        """What complete collectives, and those waited for in vain, say about pairs of clocks.

        Args:
            order: each clock's place; a group's members are compared with its first.
        """
        if not self._fresh:
            return []
        found = _sorted(np.concatenate([self._waiting, *self._fresh]))
        self._fresh, self.unmatched = [], 0
        complete = self._complete(found)
        waiting = found[~complete]
        waiting = waiting[np.argsort(waiting["batch"], kind="stable")]
        self._waiting = waiting[-_MOST_WAITING:]
        in_vain = _sorted(waiting[:-_MOST_WAITING])
        return [*_compare(found[complete], order), *_compare(in_vain, order)]

    def flush(self, order: NDArray[np.int64]) -> list[tuple[Pair, Constraints]]:
        """What incomplete collectives say: the rest of them will not come."""
        found = _sorted(self._waiting)
        self._waiting = np.empty(0, dtype=_ROW)
        return list(_compare(found, order))

    def add(
        self, rows: CollectiveRows, clocks: Mapping[int, int], ranks: Mapping[int, int]
    ) -> None:
        """Take new rows; ``clocks`` and ``ranks`` are numbers of their clocks, by process."""
        chosen = self._chosen(rows, clocks, ranks)
        if len(chosen):
            self._fresh.append(chosen)
            self.unmatched += len(chosen)

    def _chosen(
        self, rows: CollectiveRows, clocks: Mapping[int, int], ranks: Mapping[int, int]
    ) -> NDArray[np.void]:
        names = np.array([text in SYNCHRONISING for text in rows.texts] + [False])
        numbers = [self._texts.setdefault(text, len(self._texts)) for text in rows.texts]
        lookup = np.array([*numbers, -1])
        group = lookup[rows.group]
        keep = names[rows.name] & (rows.group_size > 1)
        index = np.flatnonzero(keep)
        index = index[np.isin(rows.process[index], list(clocks))]
        out = np.zeros(len(index), dtype=_ROW)
        self._batches += 1
        out["batch"] = self._batches
        out["process"] = process = rows.process[index]
        out["size"] = rows.group_size[index]
        out["start_ns"], out["end_ns"] = rows.start_ns[index], rows.end_ns[index]
        known, inverse = np.unique(process, return_inverse=True)
        self._tell_lives(known, inverse, out["start_ns"], ranks)
        out["clock"] = np.array([clocks[p] for p in known.tolist()], dtype=np.int64)[inverse]
        lives = np.array([self._lives[p] for p in known.tolist()], dtype=np.int64)[inverse]
        out["group"] = _mixed((group[index], lives))
        fields = (out["group"], lookup[rows.name[index]], rows.sequence[index], rows.step[index])
        out["key"] = _mixed(fields)
        return _part(out[~np.isin(out["group"], list(self._local))])

    def _tell_lives(
        self,
        processes: NDArray[np.int64],
        inverse: NDArray[np.int64],
        start_ns: NDArray[np.int64],
        ranks: Mapping[int, int],
    ) -> None:
        """A rank that is started again counts anew: its collectives are not those of before.

        The members of a group have been through as many starts, so lives with one number match.
        """
        first = np.full(len(processes), np.iinfo(np.int64).max)
        np.minimum.at(first, inverse, start_ns)
        for process in processes[np.argsort(first, kind="stable")].tolist():
            if process not in self._lives:
                rank = ranks[process]
                self._lives[process] = self._born[rank] = self._born.get(rank, 0) + 1

    def _complete(self, rows: NDArray[np.void]) -> NDArray[np.bool_]:
        """Rows of which the whole group is there; learns which groups are of one host."""
        begins, place = _runs(rows["key"])
        counts = np.diff(np.append(begins, len(rows)))[place]
        complete: NDArray[np.bool_] = counts >= rows["size"]
        alone = rows["clock"][begins][place] == rows["clock"]
        alone = np.logical_and.reduceat(alone, begins)[place]
        self._local.update(np.unique(rows["group"][complete & alone]).tolist())
        return complete


def _sorted(rows: NDArray[np.void]) -> NDArray[np.void]:
    """By collective, and then by clock."""
    order = np.lexsort((rows["process"], rows["clock"], rows["key"]))
    ordered: NDArray[np.void] = rows[order]
    return ordered


def _part(rows: NDArray[np.void]) -> NDArray[np.void]:
    """A part of too many rows: by key, so that of every host the same collectives are taken."""
    mask = 0
    while len(rows) >> mask > _MOST_ROWS:
        mask += 1
    chosen: NDArray[np.void] = rows[rows["key"] & np.uint64((1 << mask) - 1) == 0]
    return chosen


def _compare(
    rows: NDArray[np.void], order: NDArray[np.int64]
) -> Iterator[tuple[Pair, Constraints]]:
    """Per pair of clocks (first of the group, other) what their rows say; rows lie by key, clock.

    Of the ranks of one clock the last to come and the first to leave say the most.
    """
    rows = _without_repeats(rows)
    if not len(rows):
        return
    mixed = np.stack([rows["key"].view(np.int64), rows["clock"]])
    begins = np.concatenate([[0], 1 + np.flatnonzero(np.any(np.diff(mixed) != 0, axis=0))])
    key, clock = rows["key"][begins], rows["clock"][begins]
    came = np.maximum.reduceat(rows["start_ns"], begins)
    left = np.minimum.reduceat(rows["end_ns"], begins)
    by_place = np.lexsort((order[clock], key))
    key, clock, came, left = key[by_place], clock[by_place], came[by_place], left[by_place]
    groups, place = _runs(key)
    hub = groups[place]
    other = np.flatnonzero(hub != np.arange(len(key)))
    hub = hub[other]
    constraints = Constraints(
        low_at=came[other],
        low=came[other] - left[hub],
        high_at=left[other],
        high=left[other] - came[hub],
        guess=left[other] - left[hub],
    )
    pairs = np.stack([clock[hub], clock[other]], axis=1)
    by_pair = np.lexsort((pairs[:, 1], pairs[:, 0]))
    ordered = pairs[by_pair]
    ends = 1 + np.flatnonzero(np.any(np.diff(ordered, axis=0) != 0, axis=1))
    for chosen in np.split(by_pair, ends) if len(by_pair) else ():
        nearer, farther = pairs[chosen[0]].tolist()
        yield (nearer, farther), constraints.chosen(np.sort(chosen))


def _without_repeats(rows: NDArray[np.void]) -> NDArray[np.void]:
    """Without collectives that a process says it did twice: who knows which it was."""
    if not len(rows):
        return rows
    again = np.concatenate([[False], (rows["key"][1:] == rows["key"][:-1])])
    again[1:] &= rows["process"][1:] == rows["process"][:-1]
    begins, place = _runs(rows["key"])
    return rows[~np.logical_or.reduceat(again, begins)[place]]


def _runs(keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of sorted keys where each begins, and for every row the number of its key."""
    new = np.concatenate([[True], keys[1:] != keys[:-1]])
    return np.flatnonzero(new), np.cumsum(new) - 1


def _mixed(fields: tuple[NDArray[Any], ...]) -> NDArray[np.uint64]:
    """One number for all fields of a row (the mixing of SplitMix64)."""
    mixed = np.zeros(len(fields[0]), dtype=np.uint64)
    for field in fields:
        mixed = (mixed ^ field.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed


def _codes(table: pa.Table, name: str, texts: dict[str, int]) -> NDArray[np.int64]:
    """Numbers of the texts of a column; equal texts get equal numbers, and a missing one -1."""
    parts = [np.empty(0, dtype=np.int64)]
    chunks: list[Any] = table.column(name).dictionary_encode().chunks
    for chunk in chunks:
        numbers = [texts.setdefault(text, len(texts)) for text in chunk.dictionary.to_pylist()]
        indices = chunk.indices.fill_null(len(numbers)).to_numpy()
        parts.append(np.array([*numbers, -1], dtype=np.int64)[indices])
    return np.concatenate(parts)
