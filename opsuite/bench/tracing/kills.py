"""``kill -9`` at random times, of producers and of the daemon: all acknowledged is stored once."""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from collectors.errors import OpsuiteError
from collectors.query.direct import Store
from opsuite.bench.result import Row
from opsuite.bench.tracing.collecting import Collecting, temporary_home, wait_for_rows
from opsuite.bench.tracing.producers import Producers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from opsuite.bench.tracing.producers import Verdict

KILLS = 200
_RANKS = 4
_RATE = 2_000.0  # events/s of each
_FOREVER_S = 3_600.0
_LONGEST_S = 0.6  # between two kills, and the longest wait for a moment to kill in
_LOOK_S = 0.0005
_ASK_EVERY = 5  # kills of the daemon
_DUPLICATES = """
    SELECT coalesce(sum(n - 1), 0) FROM (
        SELECT count(*) AS n FROM samples WHERE run_id = $1 AND name = 'bench.sample'
        GROUP BY rank, step)
"""


def measure(*, kills: int = KILLS, seed: int = 0) -> list[Row]:
    """One run under ``kills`` random kills; then what the store holds, asked in three ways."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    with temporary_home("kills") as home:
        campaign = Campaign(home, chance)
        verdicts = campaign.run(kills)
    done = ", ".join(f"{count} of {what}" for what, count in sorted(campaign.done.items()))
    return [
        Row(
            name=f"kills: {sum(campaign.done.values())} random kill -9, {who}: "
            "events lost, doubled, invented or wrong",
            value=verdict.lost + verdict.doubled + verdict.invented + verdict.wrong,
            unit=f"of {verdict.acknowledged}",
            rounds=kills,
            target="0",
            met=verdict.right and not campaign.doubled,
            note=f"{verdict}; killed: {done}; "
            f"drafts left by killed sealings: {len(campaign.drafts)}",
        )
        for who, verdict in verdicts.items()
    ]


class Campaign:
    """Producers and a hasty daemon, and somebody who kills them.

    Attributes:
        done: how many kills of what.
        drafts: half-written files that a killed daemon left.
        doubled: rows seen twice by queries between the kills.
    """

    def __init__(self, home: Path, chance: random.Random) -> None:
        self._home = home
        self._chance = chance
        self._parquet = home / "parquet"
        self.done: Counter[str] = Counter()
        self.drafts: set[str] = set()
        self.doubled = 0

    def run(self, kills: int) -> dict[str, Verdict]:
        """Kill, and then judge: through the daemon, without it, and after an index made anew."""
        daemon = Collecting(home=self._home, module="opsuite.bench.tracing.hasty_daemon")
        producers = Producers(
            home=self._home, ranks=_RANKS, rate=_RATE, seconds=_FOREVER_S, every_kind=True
        )
        with daemon:
            with producers:
                for _ in range(kills):
                    self._kill_somebody(daemon, producers)
            with daemon.connect() as client:
                wait_for_rows(producers.stored, client, sum(producers.acknowledged().values()))
                verdicts = {"asked of the daemon": producers.judge(client)}
        with Store.open(self._home) as store:
            verdicts["asked of the files"] = producers.judge(store)
        for path in self._home.glob("store.duckdb*"):
            path.unlink()
        with Store.open(self._home) as store:
            verdicts["with a new index"] = producers.judge(store)
        return verdicts

    def _kill_somebody(self, daemon: Collecting, producers: Producers) -> None:
        time.sleep(self._chance.uniform(0, _LONGEST_S))
        if self._chance.random() < 0.5:
            rank = self._chance.randrange(_RANKS)
            producers.kill(rank)
            producers.start(rank)
            self.done["a producer"] += 1
            return
        when = self._chance.choice(list(_MOMENTS))
        _wait_for(self._parquet, _MOMENTS[when])
        daemon.kill()
        self.done[f"the daemon {when}"] += 1
        self.drafts |= {path.name for path in self._parquet.rglob("*.tmp")}
        daemon.start()
        if self.done.total() % _ASK_EVERY == 0:
            self._ask(daemon, producers)

    def _ask(self, daemon: Collecting, producers: Producers) -> None:
        """Nothing may be seen twice at any time."""
        with suppress(OpsuiteError), daemon.connect() as client:
            [(doubled,)] = client.rows(_DUPLICATES, [producers.run_id])
            self.doubled += int(doubled)


def _any_time(_: Path) -> Callable[[], bool]:
    return lambda: True


def _while_sealing(parquet: Path) -> Callable[[], bool]:
    """A draft of a Parquet file is there."""
    return lambda: any(parquet.glob("*/run=*/host=*/hour=*/*.tmp"))


def _while_committing(parquet: Path) -> Callable[[], bool]:
    """A seal has just come, and is not entered into the index yet."""
    before = _seals(parquet)
    return lambda: bool(_seals(parquet) - before)


def _while_merging(parquet: Path) -> Callable[[], bool]:
    """A seal has just gone: another one has taken its place."""
    before = _seals(parquet)
    return lambda: bool(before - _seals(parquet))


def _seals(parquet: Path) -> set[str]:
    return {path.name for path in parquet.glob("seals/*/*.json")}


_MOMENTS = {
    "at any time": _any_time,
    "while it seals": _while_sealing,
    "while it commits": _while_committing,
    "while it merges": _while_merging,
}


def _wait_for(parquet: Path, moment: Callable[[Path], Callable[[], bool]]) -> None:
    """Until it is the moment, or for a while."""
    come, deadline = moment(parquet), time.monotonic() + _LONGEST_S
    while not come() and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
