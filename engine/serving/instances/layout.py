"""Who computes which rows of a step, and what passes between whom: all of it follows from the
step, so the instances of a group need not tell each other.

An instance's rows are the tokens it computes: those of parts whose master it is first, then its
stripes. d instances are in the group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from engine.serving.instances.stored import clipped

if TYPE_CHECKING:
    from engine.serving.instances.step import Part, Run, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Queries of one part at its master: neighbours in the text.

    Attributes:
        tokens: how many.
        place: of the first, in the text.
        new: where the part's own tokens are kept.
        before: what all of the queries see, one token's window at least, wherever it lies: what is
            cached, and a single query's own token.
        far: who else holds any of that, ascending.
    """

    tokens: int
    place: int
    new: tuple[Run, ...]
    before: tuple[Run, ...]
    far: tuple[int, ...]

    def at(self, instance: int) -> tuple[Run, ...]:
        """What all of the queries see there."""
        return tuple(run for run in self.before if run.instance == instance)


class Kept(NamedTuple):
    """Tokens of a stripe that a pool keeps: from slot ``slot`` on, every d-th.

    Attributes:
        number: of the first, among the part's tokens in the stripe.
    """

    slot: int
    number: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Striped:
    """A part that the group computes together: its j-th token lies in the stripe ``j % d``.

    Attributes:
        before: cached tokens that its first one's window, or a later one's, sees.
        gives: whose stripe has the token that gives the next one, by its place in the group; None:
            none is given.
        offset: of its tokens, in every stripe.
        counts: of its tokens, in every stripe.
    """

    part: Part
    before: tuple[Run, ...]
    gives: int | None
    offset: tuple[int, ...]
    counts: tuple[int, ...]

    def at(self, instance: int) -> tuple[Run, ...]:
        """Its cached tokens there."""
        return tuple(run for run in self.before if run.instance == instance)

    def kept(self, instance: int, stripe: int) -> list[Kept]:
        """What an instance keeps of a stripe."""
        size = len(self.counts)
        found = []
        for run in self.part.keep:
            if run.instance != instance:
                continue
            begin = run.first - self.part.first
            skipped = (stripe - begin) % size
            tokens = -(-(run.tokens - skipped) // size)
            if tokens > 0:
                found.append(Kept(run.slot + skipped, (begin + skipped) // size, tokens))
        return found


class Layout:
    """A step, as one instance of its group sees it.

    Args:
        window: tokens that attention looks back; 0: all.

    Attributes:
        instance: which one.
        place: its place in the group.
        mastered: parts whose master it is.
        striped: parts that are computed in stripes; () in a group of one, which is their master.
        stripes: tokens of each stripe.
        alike: whether masters ask the same in the last layer as in the others: each part is a
            single token that gives the next one.
    """

    def __init__(self, step: Step, instance: int, window: int) -> None:
        self.step = step
        self.window = window
        self.instance = instance
        self.group = step.instances
        self.size = len(self.group)
        self.place = self.group.index(instance)
        self.mastered = tuple(part for part in step.parts if self._master(part) == instance)
        self.stripes = [0] * self.size
        self.striped = tuple(
            self._striped(part) for part in step.parts if self._master(part) is None
        )
        self._parts = {
            each: [part for part in step.parts if self._master(part) == each] for each in self.group
        }
        self.alike = all(
            len(part.tokens) == 1 and part.choice is not None
            for parts in self._parts.values()
            for part in parts
        )
        self._questions: dict[tuple[int, bool], list[Question]] = {}
        self._far: dict[tuple[int | None, int, bool], list[int]] = {}

    @property
    def others(self) -> tuple[int, ...]:
        """The rest of the group, beginning behind this instance."""
        return self.group[self.place + 1 :] + self.group[: self.place]

    @property
    def rows(self) -> int:
        """Tokens that this instance computes."""
        return sum(len(part.tokens) for part in self.mastered) + self.stripes[self.place]

    @property
    def tokens(self) -> list[int]:
        """Their ids."""
        own = [token for part in self.mastered for token in part.tokens]
        for each in self.striped:
            own += each.part.tokens[self.place :: self.size]
        return own

    @property
    def places(self) -> list[int]:
        """Where they stand in their texts."""
        own = [place for part in self.mastered for place in range(part.first, _end(part))]
        for each in self.striped:
            own += range(each.part.first + self.place, _end(each.part), self.size)
        return own

    @property
    def giving(self) -> list[tuple[int, Part]]:
        """Rows whose scores are wanted, and the parts that they are the last of."""
        found, row = [], 0
        for part in self.mastered:
            row += len(part.tokens)
            if part.choice is not None:
                found.append((row - 1, part))
        for each in self.striped:
            row += each.counts[self.place]
            if each.gives == self.place:
                found.append((row - 1, each.part))
        return found

    def questions(self, master: int, *, last: bool) -> list[Question]:
        """What a master's parts ask for, in the order of its rows.

        Args:
            last: in the last layer: only by the tokens that give the next ones.
        """
        parts = self._parts[master]
        last = last and not self.alike
        if (master, last) not in self._questions:
            asking = [(part, 1 if last else len(part.tokens)) for part in parts]
            self._questions[master, last] = [
                self._question(part, tokens)
                for part, tokens in asking
                if part.choice is not None or not last
            ]
        return self._questions[master, last]

    def asked(self, holder: int, master: int, *, last: bool) -> list[Question]:
        """Those of a master that another instance answers."""
        return [each for each in self.questions(master, last=last) if holder in each.far]

    def far_rows(self, master: int, *, last: bool) -> list[int]:
        """Rows of a master's queries that concern others."""
        return self._rows(None, master, last)

    def rows_for(self, holder: int, master: int, *, last: bool) -> list[int]:
        """Those among the far ones that concern one holder."""
        return self._rows(holder, master, last)

    def answered_before(self, holder: int, master: int, *, last: bool) -> int:
        """Masters whose questions a holder answers before this one's."""
        at = self.group.index(holder)
        order = self.group[at + 1 :] + self.group[:at]
        before = order[: order.index(master)]
        return sum(bool(self.asked(holder, each, last=last)) for each in before)

    def _rows(self, holder: int | None, master: int, last: bool) -> list[int]:
        key = (holder, master, last)
        if key not in self._far:
            found: list[int] = []
            row = 0
            for each in self.questions(master, last=last):
                if each.far if holder is None else holder in each.far:
                    found += range(row, row + each.tokens)
                row += each.tokens if each.far or holder is None else 0
            self._far[key] = found
        return self._far[key]

    def _master(self, part: Part) -> int | None:
        return self.group[0] if self.size == 1 else part.master

    def _question(self, part: Part, tokens: int) -> Question:
        """By the last so many tokens of a part."""
        master = self._master(part)
        assert all(run.instance == master for run in part.keep), "new tokens stay with the master"
        place = _end(part) - tokens
        before = part.cached if tokens > 1 else (*part.cached, *part.keep)
        before = clipped(before, self._seen_from(place))
        far = sorted({run.instance for run in before} - {master})
        assert all(each in self.group for each in far), "holders take part"
        return Question(tokens=tokens, place=place, new=part.keep, before=before, far=tuple(far))

    def _striped(self, part: Part) -> Striped:
        offset = tuple(self.stripes)
        tokens = len(part.tokens)
        counts = tuple(len(range(place, tokens, self.size)) for place in range(self.size))
        self.stripes = [sum(each) for each in zip(offset, counts, strict=True)]
        before = clipped(part.cached, self._seen_from(part.first))
        assert all(run.instance in self.group for run in before), "holders take part"
        return Striped(
            part=part,
            before=before,
            gives=(tokens - 1) % self.size if part.choice is not None else None,
            offset=offset,
            counts=counts,
        )

    def _seen_from(self, place: int) -> int:
        """The first token that a token there sees."""
        return max(0, place - self.window + 1) if self.window else 0


def _end(part: Part) -> int:
    """The place behind its last token."""
    return part.first + len(part.tokens)
