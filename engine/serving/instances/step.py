"""What an instance is told to compute, and what it tells of it.

It keeps no books: whose keys and values lie where is said anew with each step, so that whoever
manages the fleet can forget an instance, or give it a new beginning, without asking it.
"""

from __future__ import annotations

import msgspec

from engine.serving.sampling.parameters import Candidate, SamplingParameters
from engine.serving.sampling.sampler import Chosen


class Run(msgspec.Struct, frozen=True, array_like=True):
    """Tokens that are neighbours in a text and in a pool.

    Attributes:
        instance: whose pool.
        slot: of the first of them.
        first: its place in the text.
    """

    instance: int
    slot: int
    first: int
    tokens: int

    @property
    def end(self) -> int:
        """The place in the text behind the last of them."""
        return self.first + self.tokens


class Choice(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How a request's next token is chosen.

    Attributes:
        place: of the token, in the output.
        prompt, output: tokens so far, where the choice depends on them; else empty.
    """

    parameters: SamplingParameters
    place: int
    prompt: tuple[int, ...] = ()
    output: tuple[int, ...] = ()

    @property
    def candidate(self) -> Candidate:
        """As the sampler takes it, for which the output's length alone may do."""
        output = self.output or range(self.place)
        return Candidate(parameters=self.parameters, prompt=self.prompt, output=output)


class Part(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A request's part of a step.

    Attributes:
        tokens: ids, of which keys and values are computed.
        first: the place of the first of them in the text.
        cached: where the keys and values of all tokens before it lie, in the order of the text: on
            instances of the group.
        keep: where those of ``tokens`` are kept, in the order of the text; together as many.
        master: the instance that computes them all (a decode); None: they are computed in
            stripes, the j-th by the ``j % DoP``-th instance of the group.
        choice: of the next token, by whoever computes the last of ``tokens``; None: none is
            chosen.
    """

    number: int
    tokens: tuple[int, ...]
    first: int
    cached: tuple[Run, ...]
    keep: tuple[Run, ...]
    master: int | None = None
    choice: Choice | None = None


class Copy(msgspec.Struct, frozen=True, array_like=True):
    """Keys and values that pass from one pool to another before the work; of equal length."""

    source: Run
    target: Run


class Step(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One iteration of a group; each of its instances is told the same.

    Attributes:
        number: grows: an instance computes its steps in this order.
        instances: the group, ascending. Whoever is in it has ended, or been freed from, all steps
            with lesser numbers before it begins this one.
    """

    number: int
    instances: tuple[int, ...]
    parts: tuple[Part, ...]
    copies: tuple[Copy, ...] = ()


class Done(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """An instance's account of a step.

    Attributes:
        chosen: next tokens that it chose: (request, token).
        failed: requests whose next token could not be chosen: their scores are not finite.
        lost: an instance of the group that has ended meanwhile: nothing of this step counts; None:
            all came to its end.
        sent: bytes that this instance gave to others: of the ring (stripes and what is cached), of
            queries and partial results, and of copies.
    """

    number: int
    instance: int
    seconds: float
    chosen: tuple[tuple[int, Chosen], ...] = ()
    failed: tuple[int, ...] = ()
    lost: int | None = None
    sent: tuple[int, int, int] = (0, 0, 0)
