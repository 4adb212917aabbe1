"""A training run of many ranks that never ran: 8 ranks a host, some hosts slow, all made up.

A step of a rank: load, forward (attention and mlp, then an all-reduce of the tensor-parallel
group), backward, grad_sync (an all-reduce of the data-parallel group), optimizer. The next step
begins when the last rank is ready. Own work takes its time +- 5 %, on a slow host 10 % longer.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from collectors.record import RECORD, Kind
from collectors.recorder import Identity
from opsuite.bench.tracing.simulated_rank import SimulatedRank, record_head

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from collectors.record import Records

RANKS_PER_HOST = 8
SPANS = ("step", "load", "forward", "attention", "mlp", "backward", "grad_sync", "optimizer")
_OWN_S = {"load": 0.02, "attention": 0.12, "mlp": 0.18, "backward": 0.6, "optimizer": 0.04}
_TRANSFER_S = {"tp": 0.002, "dp": 0.03}
_GAP_S = 0.001
_NOISE = 0.05
_SLOWER = 1.10
_SLOW_SHARE = 0.005
_TEXTS = (*SPANS, "all_reduce")
_RECORDS_A_STEP = len(SPANS) + 2
_BYTES = {"tp": 64 << 20, "dp": 512 << 20}


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """How large a run to make up.

    Attributes:
        pp, dp: parallel sizes; tp is the 8 ranks of a host.
        steps: how many each rank does.
        seed: of the noise and of which hosts are slow.
    """

    pp: int
    dp: int
    steps: int
    seed: int = 0

    @property
    def world_size(self) -> int:
        """How many ranks."""
        return self.pp * self.dp * RANKS_PER_HOST

    @property
    def spans(self) -> int:
        """How many spans all ranks record."""
        return self.world_size * self.steps * len(SPANS)

    @property
    def records(self) -> int:
        """How many spans and collectives."""
        return self.world_size * self.steps * _RECORDS_A_STEP

    def slow_hosts(self) -> list[int]:
        """Numbers of the hosts that are slow, at least one."""
        hosts = self.pp * self.dp
        count = max(1, math.ceil(hosts * _SLOW_SHARE))
        chosen = np.random.default_rng(self.seed).choice(hosts, count, replace=False)
        return sorted(chosen.tolist())

    def write(self, run_id: str, spool: Path) -> int:
        """Write a segment a rank, as if the run had just ended; returns the bytes of all files."""
        starts, ends = self._times()
        begun_ns = time.time_ns() - int(ends[0].max())
        written = 0
        for host in range(self.pp * self.dp):
            ranks = slice(host * RANKS_PER_HOST, (host + 1) * RANKS_PER_HOST)
            frames = self._frames(starts[:, :, ranks], ends[:, :, ranks])
            for place, records in enumerate(frames):
                rank = ranks.start + place
                who = self._who(run_id, rank, begun_ns)
                written += who.write(spool, (*_TEXTS, *self._groups(rank)), records)
        return written

    def _who(self, run_id: str, rank: int, begun_ns: int) -> SimulatedRank:
        host = rank // RANKS_PER_HOST
        pp, dp, tp = np.unravel_index(rank, (self.pp, self.dp, RANKS_PER_HOST))
        identity = Identity(
            run_id=run_id,
            role="trainer",
            rank=rank,
            world_size=self.world_size,
            host=host_name_of(host),
            coordinates={"tp": int(tp), "pp": int(pp), "dp": int(dp)},
        )
        return SimulatedRank(
            identity=identity,
            key=f"trainer{rank}-{1000 + rank}-{rank:08x}",
            pid=1000 + rank,
            boot_id=f"boot-{host}",
            wall_ns=begun_ns,
        )

    def _groups(self, rank: int) -> tuple[str, str]:
        ranks = np.arange(self.world_size).reshape(self.pp, self.dp, RANKS_PER_HOST)
        pp, dp, tp = np.unravel_index(rank, ranks.shape)
        tensor, data = ranks[pp, dp, :], ranks[pp, :, tp]
        return tuple(  # type: ignore[return-value]
            f"{axis}[{','.join(map(str, members.tolist()))}]"
            for axis, members in (("tp", tensor), ("dp", data))
        )

    def _frames(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Iterator[Records]:
        """The records of each rank of a host; both arrays are [records, steps, ranks]."""
        _, steps, ranks = starts.shape
        for rank in range(ranks):
            frame = np.zeros((steps, _RECORDS_A_STEP), dtype=RECORD)
            frame["start_ns"], frame["end_ns"] = starts[:, :, rank].T, ends[:, :, rank].T
            frame["step"] = np.arange(steps)[:, None]
            spans, collectives = frame[:, : len(SPANS)], frame[:, len(SPANS) :]
            spans["head"] = [record_head(Kind.SPAN, text) for text in range(1, len(SPANS) + 1)]
            collectives["head"] = record_head(Kind.COLLECTIVE, len(_TEXTS))
            collectives["sequence"] = np.arange(steps)[:, None]
            collectives["group_size"] = [RANKS_PER_HOST, self.dp]
            collectives["value"] = [_BYTES["tp"], _BYTES["dp"]]
            collectives["group"] = [len(_TEXTS) + 1, len(_TEXTS) + 2]
            yield frame.reshape(-1)

    def _times(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Begin and end in ns of every record of a step: arrays [records, steps, ranks]."""
        shape = (_RECORDS_A_STEP, self.steps, self.world_size)
        starts, ends = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.int64)
        begin = 0.0
        for step, (start, end) in enumerate(self._steps()):
            starts[:, step] = (start + begin) * 1e9
            ends[:, step] = (end + begin) * 1e9
            begin += float(end[0].max()) + _GAP_S
        return starts, ends

    def _steps(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Begin and end in seconds since the step began: two arrays [records, ranks] a step."""
        rng = np.random.default_rng(self.seed + 1)
        slow = np.ones(self.pp * self.dp)
        slow[self.slow_hosts()] = _SLOWER
        pace = slow.repeat(RANKS_PER_HOST)
        for _ in range(self.steps):
            noise = 1 + _NOISE * rng.standard_normal((len(_OWN_S), self.world_size)).clip(-3, 3)
            own = dict(
                zip(_OWN_S, np.array(list(_OWN_S.values()))[:, None] * noise * pace, strict=True)
            )
            yield self._step(own)

    def _step(
        self, own: dict[str, NDArray[np.float64]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        begin = np.zeros(self.world_size)
        loaded = own["load"]
        attended = loaded + own["attention"]
        multiplied = attended + own["mlp"]
        forwarded = self._all_reduce(multiplied, axis=2) + _TRANSFER_S["tp"]
        computed = forwarded + own["backward"]
        synced = self._all_reduce(computed, axis=1) + _TRANSFER_S["dp"]
        done = synced + own["optimizer"]
        starts = [begin, begin, loaded, loaded, attended, forwarded, computed, synced]
        ends = [done, loaded, forwarded, attended, multiplied, computed, synced, done]
        collectives = ([multiplied, computed], [forwarded, synced])
        return np.stack(starts + collectives[0]), np.stack(ends + collectives[1])

    def _all_reduce(self, arrivals: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        """For each rank when the last of its group along ``axis`` of [pp, dp, tp] arrives."""
        mesh = arrivals.reshape(self.pp, self.dp, RANKS_PER_HOST)
        last = mesh.max(axis=axis, keepdims=True)
        return np.broadcast_to(last, mesh.shape).reshape(-1)


def host_name_of(host: int) -> str:
    """The name of the ``host``-th simulated host."""
    return f"sim-{host:04d}"
