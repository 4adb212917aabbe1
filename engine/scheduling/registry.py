"""The policies by name."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from collectors.errors import UsageError
from engine.scheduling.adaptive import Adaptive
from engine.scheduling.fcfs import FirstComeFirstServed
from engine.scheduling.mlfq import MultiLevelFeedbackQueue
from engine.scheduling.oracle import Gittins, ShortestRemaining
from engine.scheduling.priority import Priority
from engine.scheduling.skip_join import SkipJoin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engine.scheduling.job import Job
    from engine.scheduling.policy import Policy
    from engine.scheduling.profile import Profile


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """What a policy may know.

    Attributes:
        output_tokens: how many a job will give; simulators alone can say.
        output_lengths: of many jobs, in any order: the true distribution, likewise.
    """

    profile: Profile
    output_tokens: Callable[[Job], int] | None = None
    output_lengths: Sequence[int] = ()


def _shortest_remaining(knowledge: Knowledge) -> Policy:
    if knowledge.output_tokens is None:
        raise _no_oracle(ShortestRemaining.name)
    return ShortestRemaining(knowledge.profile, knowledge.output_tokens)


def _gittins(knowledge: Knowledge) -> Policy:
    if not knowledge.output_lengths:
        raise _no_oracle(Gittins.name)
    return Gittins(knowledge.profile, Counter(knowledge.output_lengths))


def _no_oracle(name: str) -> UsageError:
    return UsageError(
        f"policy {name} needs to know how long answers will be",
        where="--policy",
        remedy="take it in `opsuite simulate serve`; a server takes one without -oracle",
    )


POLICIES: Mapping[str, Callable[[Knowledge], Policy]] = {
    FirstComeFirstServed.name: lambda _: FirstComeFirstServed(),
    Priority.name: lambda _: Priority(),
    MultiLevelFeedbackQueue.name: lambda knowledge: MultiLevelFeedbackQueue(knowledge.profile),
    SkipJoin.name: lambda knowledge: SkipJoin(knowledge.profile),
    Adaptive.name: lambda knowledge: Adaptive(knowledge.profile),
    ShortestRemaining.name: _shortest_remaining,
    Gittins.name: _gittins,
}

LIVE_POLICIES = tuple(sorted(name for name in POLICIES if not name.endswith("-oracle")))
"""Those that know nothing that a server does not."""


def make_policy(name: str, knowledge: Knowledge) -> Policy:
    """A policy that knows no job yet.

    Raises:
        UsageError: no policy has that name, or it is an oracle that is told nothing.
    """
    if name not in POLICIES:
        raise UsageError(
            f"there is no policy {name!r}",
            where="--policy",
            remedy=f"take one of {', '.join(sorted(POLICIES))}",
        )
    return POLICIES[name](knowledge)
