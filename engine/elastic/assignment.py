"""What a fleet's policy decides: which instances begin an iteration, and what it computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

Share = tuple[int, int]
"""An instance, and so many tokens: neighbours of each other in their request's text."""


class Chunk(NamedTuple):
    """A part of a waiting request's prefill.

    Attributes:
        tokens: how many are computed: all that are due, or fewer.
        keep: where their keys and values are kept, in the order of the text; the tokens of all
            shares are ``tokens``. Any instances of the group, in any parts.
        fresh: a request that has not begun shares no prefix: it is computed from its beginning,
            and the group need not have who holds that.
    """

    number: int
    tokens: int
    keep: tuple[Share, ...]
    fresh: bool = False


class Transfer(NamedTuple):
    """Keys and values of a request that pass from one instance to another before the work: the
    last ``tokens`` of those that it has at ``source``."""

    number: int
    source: int
    target: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One iteration of a group of idle instances.

    The requests whose masters are in the group, and that are wholly held within it, decode in the
    same iteration unless ``decodes`` is False: then they wait.

    Attributes:
        instances: ascending. The tokens of each chunk are computed in stripes: the j-th by the
            ``j % DoP``-th of these.
        chunks: prefills; () : decodes only.
        masters: requests that decode, and the instance that is their master from now on, where
            that changes (scaling up): it computes their next tokens, and keeps them.
        transfers: before the work.
        drop: waiting requests that have begun, and whose keys and values are given up for room,
            wherever they lie; first of all.
    """

    instances: tuple[int, ...]
    chunks: tuple[Chunk, ...] = ()
    decodes: bool = True
    masters: tuple[tuple[int, int], ...] = ()
    transfers: tuple[Transfer, ...] = ()
    drop: tuple[int, ...] = ()

    @property
    def dop(self) -> int:
        """Degree of parallelism."""
        return len(self.instances)
