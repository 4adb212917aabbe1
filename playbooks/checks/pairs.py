"""Which hosts test the link between them with which, and what follows. Pure: no I/O, no clock.

Hosts stand in the order of their neighbourhood (under one switch), and close to a ring. Round 1
pairs 0-1, 2-3, ...; round 2 pairs 1-2, 3-4, ..., and the last with the first: a bad host fails with
both partners, a good one next to it with that one only. With an odd number each round leaves one
out, and a third round of a single pair lets these two test each other.

What can be told: with one bad host among three or more, which; with one bad link, which link. Two
hosts cannot tell which of them is bad, and one host cannot be tested. Bad hosts side by side, or
with one host between them, are suspects first: :func:`retest` pairs each with a host that is known
to work. Two bad links of one host cannot be told from a bad host, and are judged as that.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from playbooks.checks.check import TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Pair = tuple[str, str]
"""Two hosts, as the pairing named them: the first one listens."""


@dataclass(frozen=True, kw_only=True)
class PairOutcome:
    """How the test of one pair went.

    Attributes:
        good: fast enough, with exact results.
    """

    pair: Pair
    good: bool


@dataclass(frozen=True, kw_only=True)
class PairJudgement:
    """What follows from the tests.

    Attributes:
        bad_hosts: failed with every partner, of which two at least work.
        bad_links: pairs that failed although both ends work.
        suspects: failed with every partner, and too few of these are known to work.
        untested: took part in no test.
    """

    bad_hosts: tuple[str, ...] = ()
    bad_links: tuple[Pair, ...] = ()
    suspects: tuple[str, ...] = ()
    untested: tuple[str, ...] = ()

    @property
    def conclusive(self) -> bool:
        """Whether every host is known to be good or bad."""
        return not self.suspects and not self.untested

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def rounds_of_pairs(hosts: Sequence[str]) -> list[list[Pair]]:
    """The pairs of each round; those of one round share no host and run at the same time."""
    assert len(set(hosts)) == len(hosts)
    count = len(hosts)
    if count < 2:
        return []
    if count == 2:
        return [[(hosts[0], hosts[1])]]
    ring = [(hosts[index], hosts[(index + 1) % count]) for index in range(count)]
    closing = [ring[-1]] if count % 2 else []
    even, odd = ring[: count - len(closing) : 2], ring[1 : count - len(closing) : 2]
    return [pairs for pairs in (even, odd, closing) if pairs]


def compare(
    bandwidths: Mapping[Pair, float | None], tolerance: float = TOLERANCE
) -> list[PairOutcome]:
    """Outcomes where no baseline is stored: against the median of the pairs that finished.

    None is a pair that failed. With fewer than three figures there is no majority to compare with,
    and whoever finished was good.
    """
    figures = [value for value in bandwidths.values() if value is not None]
    least = statistics.median(figures) * (1.0 - tolerance) if len(figures) >= 3 else 0.0
    return [
        PairOutcome(pair=pair, good=value is not None and value >= least)
        for pair, value in bandwidths.items()
    ]


def judge_pairs(hosts: Sequence[str], outcomes: Iterable[PairOutcome]) -> PairJudgement:
    """Name what is bad, as far as all ``outcomes`` so far (of any rounds) tell."""
    outcomes = list(outcomes)
    working = {host for outcome in outcomes if outcome.good for host in outcome.pair}
    partners = _partners(outcome.pair for outcome in outcomes)
    failing = [host for host in hosts if host in partners and host not in working]
    bad = [host for host in failing if len(partners[host] & working) >= 2]
    failed = dict.fromkeys(outcome.pair for outcome in outcomes if not outcome.good)
    return PairJudgement(
        bad_hosts=tuple(bad),
        bad_links=tuple(pair for pair in failed if working.issuperset(pair)),
        suspects=tuple(host for host in failing if host not in bad),
        untested=tuple(host for host in hosts if host not in partners),
    )


def retest(hosts: Sequence[str], outcomes: Iterable[PairOutcome]) -> list[Pair]:
    """One more round: each suspect with a host that works and that it has not met.

    Empty where nobody is suspect, or no such host is left: then no further test will tell.
    """
    outcomes = list(outcomes)
    partners = _partners(outcome.pair for outcome in outcomes)
    free = [host for host in hosts if any(host in o.pair for o in outcomes if o.good)]
    pairs: list[Pair] = []
    for suspect in judge_pairs(hosts, outcomes).suspects:
        witness = next((host for host in free if host not in partners[suspect]), None)
        if witness is not None:
            free.remove(witness)
            pairs.append((witness, suspect))
    return pairs


def _partners(pairs: Iterable[Pair]) -> dict[str, set[str]]:
    partners: dict[str, set[str]] = defaultdict(set)
    for first, second in pairs:
        partners[first].add(second)
        partners[second].add(first)
    return partners
