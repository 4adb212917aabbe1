"""Where the keys and values of every text's tokens lie: runs of slots on instances."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from engine.serving.fleet.shared_text import SharedTexts, cut
from engine.serving.fleet.slot_pool import SlotPool, Stretch
from engine.serving.instances.step import Copy, Run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.elastic.assignment import Share, Transfer
    from engine.serving.fleet.shared_text import SharedText


class _Piece(NamedTuple):
    """Attributes:
    own: whether its slots are the text's; else a shared text's, which others may read, too.
    """

    run: Run
    own: bool = True


class _Text:
    """Attributes:
    pieces: in the order of the text.
    shared: whose slots it reads where they are not its own.
    """

    __slots__ = ("pieces", "shared")

    def __init__(self) -> None:
        self.pieces: list[_Piece] = []
        self.shared: SharedText | None = None

    def read(self, shared: SharedText, tokens: int) -> None:
        """Its beginning is a shared text's."""
        self.shared = shared
        self.pieces = [_Piece(run, own=False) for run in shared.first_runs(tokens)]

    @property
    def borrowed(self) -> list[Run]:
        """What is not its own."""
        return [piece.run for piece in self.pieces if not piece.own]


class Left(NamedTuple):
    """Slots that a text has left, to be given back when they have been copied.

    Attributes:
        shared: whose they are; None: the text's own.
    """

    run: Run
    shared: SharedText | None


class Texts:
    """Texts are called by their requests' numbers.

    What a request has computed of its prompt stays for others that begin alike, as long as nobody
    needs the slots.

    Args:
        salt: of this server's prefixes: secret, and another at every start.
    """

    def __init__(self, *, salt: bytes) -> None:
        self._pools: dict[int, SlotPool] = {}
        self._texts: dict[int, _Text] = {}
        self._prefixes = SharedTexts(salt)
        self._keys: dict[int, list[bytes]] = {}  # of texts that may begin

    def __contains__(self, number: int) -> bool:
        return number in self._texts

    def gain(self, instance: int, slots: int) -> None:
        """An instance whose pool is empty."""
        self._pools[instance] = SlotPool(slots)

    def lose(self, instance: int) -> None:
        """An instance is gone; texts that lie there are freed by who knows them."""
        del self._pools[instance]
        for text in self._texts.values():
            text.pieces = [each for each in text.pieces if each.run.instance != instance]
        self._give_back(self._prefixes.lose(instance))

    def used(self, instance: int, slots: int) -> int:
        """Slots that texts hold, and what only keeps a prefix."""
        return slots - self._pools[instance].free

    def known(self, number: int, tokens: Sequence[int], salt: bytes) -> tuple[Share, ...]:
        """Where the longest known beginning of a text lies, in its order; never all of it."""
        found = self._find(number, tokens, salt)
        return () if found is None else _shares(found[0].first_runs(found[1]))

    def share(self, number: int, tokens: Sequence[int], salt: bytes) -> tuple[Share, ...]:
        """A text begins with what is known of it, which stays until it is freed."""
        assert number not in self._texts, "a text begins once"
        found = self._find(number, tokens, salt)
        if found is None:
            return ()
        text = self._texts[number] = _Text()
        text.read(*found)
        self._prefixes.hold(found[0], text.borrowed)
        return _shares(piece.run for piece in text.pieces)

    def runs(self, number: int) -> tuple[Run, ...]:
        """All of a text, in its order."""
        text = self._texts.get(number)
        return tuple(piece.run for piece in text.pieces) if text else ()

    def keep(
        self, number: int, shares: Sequence[Share], first: int, *, expected: int = 0
    ) -> tuple[Run, ...]:
        """Slots for more tokens of a text, the first of which is at ``first``: not of the text
        until :meth:`append`.

        Args:
            expected: tokens that will follow, on the last instance.
        """
        runs: list[Run] = []
        for place, (instance, tokens) in enumerate(shares):
            more = expected if place == len(shares) - 1 else 0
            for start, count in self._take(instance, number, tokens, more):
                runs.append(Run(instance, start, first, count))
                first += count
        return tuple(runs)

    def append(self, number: int, runs: Iterable[Run]) -> None:
        """Keys and values of these are computed."""
        pieces = self._texts.setdefault(number, _Text()).pieces
        for run in runs:
            last = pieces[-1] if pieces else None
            if last and last.own and _continues(last.run, run):
                tokens = last.run.tokens + run.tokens
                pieces[-1] = _Piece(Run(run.instance, last.run.slot, last.run.first, tokens))
            else:
                pieces.append(_Piece(run))

    def give_back(self, runs: Iterable[Run]) -> None:
        """Slots of which nothing came, or nothing is left."""
        self._give_back(runs)

    def transfer(self, move: Transfer) -> tuple[list[Copy], list[Left]]:
        """The last tokens that a text has at one instance pass to another.

        Returns:
            What is to be copied, and what is to be left (:meth:`leave`) when it has been.
        """
        text = self._texts[move.number]
        copies: list[Copy] = []
        left_behind: list[Left] = []
        pieces: list[_Piece] = []  # from the end of the text
        left = move.tokens
        for run, own in reversed(text.pieces):
            part = min(left, run.tokens) if run.instance == move.source else 0
            if not part:
                pieces.append(_Piece(run, own))
                continue
            left -= part
            staying, source = cut(run, run.tokens - part)
            moved = _copies(source, move.target, self._take(move.target, move.number, part, 0))
            copies += moved
            pieces += [_Piece(copy.target) for copy in reversed(moved)]
            if staying.tokens:
                pieces.append(_Piece(staying, own))
            left_behind.append(Left(source, None if own else text.shared))
        assert not left, "it has so many there"
        text.pieces = pieces[::-1]
        return copies, left_behind

    def leave(self, left_behind: Iterable[Left]) -> None:
        """It has been copied, or is worth nothing any more."""
        for run, shared in left_behind:
            self._give_back((run,) if shared is None else self._prefixes.release(shared, (run,)))

    def publish(self, number: int, tokens: Sequence[int], computed: int, salt: bytes) -> None:
        """Let others share what is computed of a text's beginning: call it when it is sound. What
        has a shared beginning itself stays as it is: that is known already."""
        text = self._texts[number]
        length = self._prefixes.whole(computed)
        if text.shared is not None or not length:
            return
        runs = [piece.run for piece in text.pieces]
        made = self._prefixes.add(tokens[:length], salt, _before(runs, length))
        if made is None:
            return
        text.read(made, length)
        self._prefixes.hold(made, text.borrowed)
        text.pieces += [_Piece(run) for run in _behind(runs, length)]

    def free(self, number: int) -> None:
        """A text is no longer needed; unknown ones are passed over."""
        for pool in self._pools.values():
            pool.forget(number)
        self._keys.pop(number, None)
        text = self._texts.pop(number, None)
        if text is None:
            return
        self._give_back(piece.run for piece in text.pieces if piece.own)
        if text.shared is not None:
            self._give_back(self._prefixes.release(text.shared, text.borrowed))

    def forget_prefixes(self) -> None:
        """Give up all that only keeps a prefix."""
        for instance in self._pools:
            self._give_back(self._prefixes.give_up(instance, None))

    def _find(
        self, number: int, tokens: Sequence[int], salt: bytes
    ) -> tuple[SharedText, int] | None:
        if number not in self._keys:
            self._keys[number] = self._prefixes.keys(tokens, salt)
        return self._prefixes.find(tokens, salt, self._keys[number])

    def _take(self, instance: int, number: int, tokens: int, expected: int) -> list[Stretch]:
        pool = self._pools[instance]
        if tokens > pool.free:
            self._give_back(self._prefixes.give_up(instance, tokens - pool.free))
        return pool.take(number, tokens, expected=expected)

    def _give_back(self, runs: Iterable[Run]) -> None:
        for run in runs:
            pool = self._pools.get(run.instance)
            if pool is not None:
                pool.give((Stretch(run.slot, run.tokens),))


def _continues(run: Run, after: Run) -> bool:
    """Whether both are one run."""
    return run.instance == after.instance and run.slot + run.tokens == after.slot


def _before(runs: Sequence[Run], place: int) -> list[Run]:
    """What they have of the text before a place."""
    return [cut(run, place - run.first)[0] for run in runs if run.first < place]


def _behind(runs: Sequence[Run], place: int) -> list[Run]:
    """What they have of the text from a place on."""
    return [cut(run, max(0, place - run.first))[1] for run in runs if run.end > place]


def _copies(source: Run, target: int, stretches: Iterable[Stretch]) -> list[Copy]:
    """Piece by piece, in the order of the text."""
    copies = []
    for start, count in stretches:
        part, source = cut(source, count)
        copies.append(Copy(part, Run(target, start, part.first, count)))
    return copies


def _shares(runs: Iterable[Run]) -> tuple[Share, ...]:
    shares: list[Share] = []
    for run in runs:
        if shares and shares[-1][0] == run.instance:
            shares[-1] = (run.instance, shares[-1][1] + run.tokens)
        else:
            shares.append((run.instance, run.tokens))
    return tuple(shares)
