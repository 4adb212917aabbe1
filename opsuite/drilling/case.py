"""The drills of the campaign: each class of faults, and as what it should be seen."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opsuite.drilling.outcome import Outcome

_ALONE = {"parallel": {"tp": 1, "dp": 2}, "resilience": {"hosts": 1}}  # ranks have their own cores
_FIRST, _LAST = 20, 90  # steps of the small job in which a fault may strike
_LONGEST_DELAY_MS = 150
_EVERY = 10  # steps between checkpoints, of those that damage one


@dataclass(frozen=True, kw_only=True)
class Case:
    """One class.

    Attributes:
        faults: with names of what is drawn, in braces.
        causes: as which of these an incident should record it.
        events: or which of these events should.
        findings: or which cause a diagnosis of the run should name.
        sections: of the configuration, beyond the small job's.
        bitwise: whether the result can be that of a run without the fault.
        hang: whether it is one: what may be noticed later.
    """

    name: str
    faults: tuple[str, ...]
    causes: frozenset[str] = frozenset()
    events: frozenset[str] = frozenset()
    findings: frozenset[str] = frozenset()
    sections: Mapping[str, Any] = field(default_factory=dict)
    standbys: int = 1
    storage_bytes: int = 0
    bitwise: bool = True
    hang: bool = False

    @property
    def ranks(self) -> int:
        """Of its job."""
        return 2 if "parallel" in self.sections else 4

    def drawn(self, moment: int) -> tuple[str, ...]:
        """The faults at a random moment; the same for the same number."""
        chance = random.Random(f"{self.name}:{moment}")  # noqa: S311 - repeatable on purpose
        step = chance.randint(_FIRST, _LAST)
        saved = step // _EVERY * _EVERY + _EVERY // 2  # no other save comes for some steps
        values = {
            "rank": chance.randrange(self.ranks),
            "step": step,
            "saved": saved,
            "later": saved + 3,
            "last": step + 25,
            "delay": chance.randrange(_LONGEST_DELAY_MS),
            "bit": chance.randrange(32),
            "seed": chance.randrange(1000),
        }
        return tuple(each.format(**values) for each in self.faults)

    def is_named(self, outcome: Outcome, found: frozenset[str]) -> bool:
        """Whether it was recorded as what it is; ``found``: causes that a diagnosis names."""
        seen = {cause for each in outcome.faults for cause in each.causes}
        return bool(
            seen & self.causes or self.events & set(outcome.events) or self.findings & found
        )


def _case(name: str, *faults: str, causes: str = "", **more: Any) -> Case:  # noqa: ANN401
    return Case(
        name=name,
        faults=faults,
        causes=frozenset(filter(None, causes.split("|"))),
        **more,
    )


_ON_RANK = "rank={rank},step={step}"
CASES = (
    _case("sigkill", f"sigkill:{_ON_RANK},delay_ms={{delay}}", causes="killed"),
    _case("sigsegv", f"sigsegv:{_ON_RANK},delay_ms={{delay}}", causes="crashed"),
    _case("sigstop", f"sigstop:{_ON_RANK},delay_ms={{delay}}", causes="process stopped", hang=True),
    _case("deadlock", f"deadlock:{_ON_RANK}", causes="deadlock", hang=True),
    _case("endless-loop", f"endless-loop:{_ON_RANK}", causes="endless loop", hang=True),
    _case("oom", f"oom:{_ON_RANK}", causes="out of memory"),
    _case(
        "slow-rank",
        "slow-rank:rank={rank},steps={step}-{last}",
        findings=frozenset({"cpu_contention"}),
        sections=_ALONE,
        standbys=0,
    ),
    _case(
        "cpu-quota",
        "cpu-quota:rank={rank},steps={step}-{last},percent=40",
        findings=frozenset({"cpu_throttling"}),
        sections=_ALONE,
        standbys=0,
    ),
    _case(
        "gc-storm",
        "gc-storm:rank={rank},steps={step}-{last}",
        findings=frozenset({"garbage_collection"}),
        sections=_ALONE,
        standbys=0,
    ),
    _case("nan-batch", "nan-batch:step={step}", causes="not a number, on all ranks"),
    _case("nan-rank", f"nan-rank:{_ON_RANK}", causes="not a number, on one replica"),
    _case(
        "gradient-flip",
        f"gradient-flip:{_ON_RANK},seed={{seed}}",
        causes="corrupted gradient|not a number, on one replica",
    ),
    _case(
        "parameter-flip",
        f"parameter-flip:{_ON_RANK},bit={{bit}},seed={{seed}}",
        causes="corrupted weights",
    ),
    _case("executor-kill", "executor-kill:at_step={step},host=@{rank}", causes="executor lost"),
    _case("driver-kill", "driver-kill:at_step={step}", events=frozenset({"job.driver-lost"})),
    _case("network-cut", "network-cut:at_step={step},host=@{rank},seconds=15", causes="host lost"),
    _case(
        "network-rate",
        "network-rate:at_step={step},host=@{rank},kbit=4000,seconds=10",
        causes="slow link",
    ),
    _case(
        "disk-full",
        "disk-full:at_step={step},seconds=4",
        events=frozenset({"checkpoint.failed"}),
        storage_bytes=256 << 20,
    ),
    _case(
        "frozen-storage",
        "frozen-storage:at_step={step},seconds=6",
        events=frozenset({"checkpoint.slow"}),
        storage_bytes=256 << 20,
    ),
    _case(
        "corrupt-shard",
        "corrupt-shard:at_step={saved},seed={seed}",
        "executor-kill:at_step={later},host=@0",
        "executor-kill:at_step={later},host=@3",
        events=frozenset({"checkpoint.damaged"}),
        sections={"checkpoint": {"every": _EVERY}},
    ),
    _case(
        "truncated-shard",
        "truncated-shard:at_step={saved},seed={seed}",
        "executor-kill:at_step={later},host=@0",
        "executor-kill:at_step={later},host=@3",
        events=frozenset({"checkpoint.damaged"}),
        sections={"checkpoint": {"every": _EVERY}},
    ),
)
