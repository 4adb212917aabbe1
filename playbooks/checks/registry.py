"""Which checks there are, and how one is run in a process of its own."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from playbooks.checks.check import Measurement, Verdict
from playbooks.checks.child import Child, answer, depend_on_parent, run_children

if TYPE_CHECKING:
    from playbooks.checks.check import Check


@dataclass(frozen=True, kw_only=True)
class Terms:
    """On what terms one check is run.

    Attributes:
        seconds: how long it measures.
        grace_s: beyond that, what it may take to start and to answer; then it has failed.
        thorough: whether also to check what needs long to start.
        flip_bit: for drills: burn-in finds a flipped bit in the product of this number.
    """

    seconds: float
    grace_s: float
    thorough: bool = False
    flip_bit: int | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One check, as far as planning it needs.

    Attributes:
        what: it measures, for people.
        weight: its part of a common budget.
        start_s: what it usually takes beside the measuring, on CPUs.
    """

    what: str
    weight: float
    start_s: float


CHECKS = {
    "memory": Entry(what="bandwidth of every memory node and GPU", weight=1, start_s=0.4),
    "loopback": Entry(what="TCP in the host; copies to and from every GPU", weight=1, start_s=0.2),
    "burn-in": Entry(what="exact matrix products on all cores and GPUs", weight=3, start_s=0.6),
    "all-to-all": Entry(what="exchange among the GPUs, or processes", weight=2, start_s=4.0),
}
"""In the order in which they run: what needs the quietest machine first."""


def make_check(name: str, terms: Terms) -> Check:
    """One of ``CHECKS``, ready to measure."""
    if name == "memory":
        from playbooks.checks.memory import Memory

        return Memory()
    if name == "loopback":
        from playbooks.checks.loopback import Loopback

        return Loopback()
    if name == "burn-in":
        from playbooks.checks.burn_in import BurnIn

        return BurnIn(matrix_units=terms.thorough, flip_bit=terms.flip_bit, grace_s=terms.grace_s)
    assert name == "all-to-all"
    from playbooks.checks.all_to_all import AllToAll

    return AllToAll(grace_s=terms.grace_s)


def measure_in_child(name: str, terms: Terms) -> list[Measurement]:
    """Run one check in a process of its own; one that hangs or dies is one that failed."""
    arguments = [name, str(terms.seconds), str(terms.grace_s)]
    arguments += ["--thorough"] if terms.thorough else []
    arguments += [] if terms.flip_bit is None else ["--flip-bit", str(terms.flip_bit)]
    child = Child(module=__name__, arguments=tuple(arguments))
    (given,) = run_children([child], limit_s=terms.seconds + terms.grace_s)
    if given.failure:
        detail, fault = given.failure, Verdict.FAILED
        return [Measurement(check=name, subject="host", metric="", fault=fault, detail=detail)]
    return [Measurement.from_json(measurement) for measurement in given.document]


def main() -> None:
    """Run the check that the arguments name, and print its measurements."""
    depend_on_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=list(CHECKS))
    parser.add_argument("seconds", type=float)
    parser.add_argument("grace_s", type=float)
    parser.add_argument("--thorough", action="store_true")
    parser.add_argument("--flip-bit", type=int)
    given = vars(parser.parse_args())
    name, terms = given.pop("name"), Terms(**given)
    answer([measured.to_json() for measured in make_check(name, terms).measure(terms.seconds)])


if __name__ == "__main__":
    main()
