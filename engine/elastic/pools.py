"""How many slots of which instance every request has."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from engine.elastic.assignment import Share, Transfer

_NONE: Mapping[int, int] = {}


class Pools:
    """Counts alone: which slots these are is the business of whoever keeps them.

    Attributes:
        free, slots: of each instance that lives.
    """

    def __init__(self, slots: Mapping[int, int]) -> None:
        self.slots = dict(slots)
        self.free = dict(slots)
        self._held: dict[int, dict[int, int]] = {}

    def held(self, number: int) -> Mapping[int, int]:
        """A request's tokens by instance; each has some."""
        return self._held.get(number, _NONE)

    def holders(self) -> Iterable[int]:
        """Requests that have any."""
        return self._held.keys()

    def take(self, number: int, shares: Iterable[Share]) -> None:
        """Slots for so many tokens more."""
        held = self._held.setdefault(number, {})
        for instance, tokens in shares:
            assert 0 < tokens <= self.free[instance], "slots are free before they are taken"
            self.free[instance] -= tokens
            held[instance] = held.get(instance, 0) + tokens

    def give_back(self, number: int, shares: Iterable[Share]) -> None:
        """Some of them; those of instances that were lost are gone already."""
        held = self._held[number]
        for instance, tokens in shares:
            if instance not in self.free:
                continue
            self.free[instance] += tokens
            held[instance] -= tokens
            assert held[instance] >= 0, "only what it has"
            if not held[instance]:
                del held[instance]
        if not held:
            del self._held[number]

    def begin_move(self, transfer: Transfer) -> None:
        """To another instance, which has room: until it is over, the tokens are on both."""
        self.take(transfer.number, ((transfer.target, transfer.tokens),))

    def end_move(self, transfer: Transfer) -> None:
        """They have left the old one."""
        self.give_back(transfer.number, ((transfer.source, transfer.tokens),))

    def release(self, number: int) -> None:
        """All that it has, wherever."""
        for instance, tokens in self._held.pop(number, _NONE).items():
            self.free[instance] += tokens

    def lose(self, instance: int) -> list[int]:
        """An instance is gone: the requests that had tokens there, which have nothing any more."""
        del self.free[instance], self.slots[instance]
        hit = [number for number, held in self._held.items() if instance in held]
        for number in hit:
            del self._held[number][instance]
            self.release(number)
        return hit

    def gain(self, instance: int, slots: int) -> None:
        """A new instance, or one that begins anew."""
        assert instance not in self.free, "it is not there yet"
        self.free[instance] = self.slots[instance] = slots
