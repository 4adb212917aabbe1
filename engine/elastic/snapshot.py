"""A fleet at the moment of a decision, as its policy sees it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A request with more than its latest token to compute: a prompt, or what was dropped.

    Attributes:
        cached: tokens at its front whose keys and values exist, on ``held``.
        due: tokens to compute before it gives its next one, at least 1.
        held: how many of the cached tokens lie on which instance (instance, tokens).
        arrived_s: on the manager's clock.
        generated: tokens that it has given so far.
        room: tokens that it needs in all to come to its end, as far as is known: at least
            ``cached + due``.
        begun: whether slots of ``held`` are its own; else they are a prefix that others have
            computed, which it may share: that takes as many free slots there.
    """

    number: int
    cached: int
    due: int
    held: tuple[tuple[int, int], ...]
    arrived_s: float
    generated: int
    room: int
    begun: bool = True

    @property
    def known(self) -> int:
        """Tokens of prompt and output so far."""
        return self.cached + self.due

    @property
    def has_begun(self) -> bool:
        """Whether it has slots of its own: who holds them takes part in its next chunk."""
        return self.begun and bool(self.held)

    @property
    def growth(self) -> int:
        """Tokens that it is expected to give yet."""
        return max(0, self.room - self.known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One replica of the weights, with a pool of slots for keys and values, a token each.

    Attributes:
        free, slots: of its pool: nobody's, and all.
        idle: whether no iteration that is not over has it.
        ends_s: when that one is expected to end; now, of an idle one.
        decodes: requests whose next token is computed here (it is their master).
        context: tokens of keys and values that these have, wherever they lie.
        urgency: sum over these of 1 / their tokens: what a second's delay of them costs.
        bound: instances that hold tokens of these requests, itself among them: they decode
            together, or not at all.
    """

    number: int
    free: int
    slots: int
    idle: bool
    ends_s: float
    decodes: int
    context: int
    urgency: float
    bound: frozenset[int]

    @property
    def used(self) -> int:
        """Slots that are taken."""
        return self.slots - self.free


class Decoding(NamedTuple):
    """A request that gives tokens, and is not in flight.

    Attributes:
        known: its tokens so far; the latest is yet to be computed.
        held: how many tokens it has on which instance (instance, tokens).
    """

    number: int
    known: int
    held: tuple[tuple[int, int], ...]


def _nobody(_: int) -> tuple[Decoding, ...]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Attributes:
    now: seconds of the manager's clock.
    waiting: in the order in which they deserve to run; none is in flight.
    instances: all that live, by their numbers, ascending.
    max_batch: requests that one instance computes in an iteration.
    decoding: the requests of a master, counted when it is asked for: during the decision only.
    """

    now: float
    waiting: tuple[Waiting, ...]
    instances: tuple[Instance, ...]
    max_batch: int = sys.maxsize
    decoding: Callable[[int], tuple[Decoding, ...]] = _nobody

    @cached_property
    def by_number(self) -> dict[int, Instance]:
        """Instances by their numbers."""
        return {each.number: each for each in self.instances}

    @property
    def idle(self) -> tuple[Instance, ...]:
        """Instances that can begin an iteration now."""
        return tuple(each for each in self.instances if each.idle)
