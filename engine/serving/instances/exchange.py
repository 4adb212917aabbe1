"""What the instances of a group give to each other while they compute a step.

T tokens of a stripe, Hq and Hkv query and key heads with G = Hq / Hkv, Dh a head's width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from collectors.errors import RunFailed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from engine.serving.instances.layout import Layout, Striped
    from engine.serving.instances.partial import Partial
    from engine.serving.instances.step import Run


class InstanceLost(RunFailed):
    """An instance does not come to the end of a step: nothing of it counts."""

    def __init__(self, instance: int, *, why: str) -> None:
        super().__init__(
            f"instance {instance} {why}",
            remedy="look at that instance's log first: what others say follows from it",
        )
        self.instance = instance


@dataclass(frozen=True, slots=True, kw_only=True)
class Stripe:
    """Of one layer, as it passes.

    Attributes:
        keys, values: of the stripe's tokens, [1, Hkv, T, Dh].
        cached_keys, cached_values: where what the holder has cached lies, [1, Hkv, slots, Dh]: in
            the runs that :meth:`Exchange.cached` tells.
    """

    keys: Tensor
    values: Tensor
    cached_keys: Tensor
    cached_values: Tensor


@dataclass(slots=True)
class Sent:
    """Bytes that were given to others: those of the ring, of questions and answers, of copies."""

    ring: int = 0
    answers: int = 0
    copies: int = 0


class Exchange(Protocol):
    """As one instance sees it; every method but :meth:`set_peer` may raise InstanceLost.

    All instances of a group call the same methods in the same order, each for its own part.

    Attributes:
        instance: whose it is.
        sent: since the step began.
    """

    instance: int
    sent: Sent

    def begin(self, layout: Layout) -> None:
        """A step, and its copies: all of them are read before any is written."""
        ...

    def cached(self, part: Striped, holder: int) -> tuple[Run, ...]:
        """A part's cached tokens at an instance, with their slots in what passes."""
        ...

    def give_stripe(self, layer: int, k: Tensor, v: Tensor) -> Stripe:
        """This instance's, of k and v [T, Hkv, Dh]; as it lies here."""
        ...

    def stripe(self, layer: int, source: int) -> Stripe:
        """Another instance's; to be asked for from the one before this one in the group backwards.
        Valid until the next layer's own is given."""
        ...

    def ask(self, layer: int, q: Tensor, *, last: bool) -> None:
        """Give the others the queries [N, Hkv, G, Dh] of all that is mastered here, of which they
        need those that concern them."""
        ...

    def asked(self, layer: int, master: int, *, last: bool) -> Tensor:
        """A master's queries that concern this instance, [n, Hkv, G, Dh]."""
        ...

    def answer(self, layer: int, answers: Iterable[tuple[int, Partial]], *, last: bool) -> None:
        """Give masters what was asked of this instance: in the order of the layout's
        :attr:`~engine.serving.instances.layout.Layout.others`, those that asked."""
        ...

    def answers(self, layer: int, holder: int, *, last: bool) -> Partial:
        """What an instance gives for the questions that concern it."""
        ...

    def end(self) -> None:
        """All of the step is computed.

        Raises:
            InstanceLost: not by all.
        """
        ...

    def abort(self, step: int, lost: int) -> None:
        """A step will not be computed here: whoever waits for this instance is freed."""
        ...
