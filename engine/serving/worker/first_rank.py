"""The first rank of an engine, with the others beside it, up to where it can compute."""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.serving.worker.group import Followers, Terms, environment
from engine.serving.worker.rank import open_rank

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.scheduling.limits import Limits
    from engine.serving.config import ServingConfig
    from engine.serving.paged.runner import PagedRunner
    from engine.serving.wire import Start
    from engine.serving.worker.calibration import Plan
    from engine.serving.worker.rank import Rank


@dataclass(frozen=True, kw_only=True)
class FirstRank:
    """Attributes:
    plan: what all ranks measure next; None: nothing.
    followers: the other ranks; None: there are none.
    """

    rank: Rank
    limits: Limits
    runner: PagedRunner
    plan: Plan | None
    followers: Followers | None


@contextmanager
def first_rank(
    start: Start, config: ServingConfig, plan_of: Callable[[Limits, int], Plan | None]
) -> Iterator[FirstRank]:
    """For the body's duration, of which the other ranks last as long.

    Args:
        plan_of: from limits and the most tokens of a request.

    Raises:
        UsageError, DataError: the model, or the way it is to be spread, cannot be used.
    """
    salt = secrets.token_bytes(16)
    with ExitStack() as stack:
        followers = None
        if config.ranks > 1:
            os.environ.update(environment())  # of this rank, too: it listens where they do
            followers = stack.enter_context(Followers(start, config, salt=salt))
        rank = open_rank(start, meeting=followers.meeting if followers else None)
        limits = rank.limits()
        plan = plan_of(limits, rank.max_len)
        if followers:
            followers.agree(Terms(limits=limits, plan=plan))
        runner = rank.runner(limits, salt)
        yield FirstRank(rank=rank, limits=limits, runner=runner, plan=plan, followers=followers)
