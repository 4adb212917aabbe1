"""Clients that know what they must be given."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.serving.api.open_requests import MOST_DEATHS
from engine.serving.request import FinishReason, GenerationRequest
from engine.serving.sampling.parameters import SamplingParameters
from engine.simulation.serving_world.scenario import VOCABULARY, Fault

if TYPE_CHECKING:
    from random import Random

    from engine.serving.request import Token
    from engine.simulation.serving_world.scenario import Scenario

_MOST_PROMPT = 0.5  # of the blocks
_GO_ON = 0.2
_ENDS = frozenset({0, 1})


class BrokenError(AssertionError):
    """What a client was given is not what it must be."""


def true_token(seed: int, place: int) -> int:
    """What the model gives there, whatever has happened."""
    return zlib.crc32(f"{seed},{place}".encode()) % VOCABULARY


@dataclass(kw_only=True)
class Client:
    """Of one request.

    Attributes:
        nan_at: the place in the output where the scores are not finite; None: nowhere.
        unusable: whether it cannot be computed at all.
        poison: whether every engine dies of it.
        leaves_at: it goes away after so many tokens; None: it stays.
        deaths: of engines while it was computed, since its last token.
    """

    request: GenerationRequest
    nan_at: int | None
    unusable: bool
    poison: bool
    leaves_at: int | None
    given: list[int] = field(default_factory=list)
    finish: FinishReason | None = None
    left: bool = False
    deaths: int = 0

    def take(self, token: Token) -> None:
        """BrokenError: it is not the right one."""
        if self.finish or self.left:
            raise BrokenError(f"request {token.number} hears more after its end")
        if token.place != len(self.given):
            raise BrokenError(f"request {token.number} is given {token.place} as {len(self.given)}")
        if not token.failed:
            if token.token != true_token(self.request.parameters.seed, token.place):
                raise BrokenError(f"request {token.number} is given another's token")
            self.given.append(token.token)
            self.deaths = 0
        self.finish = token.finish
        if token.finish and token.finish is not self._right_end(failed=token.failed):
            raise BrokenError(f"request {token.number} ends by {token.finish}")

    @property
    def leaves(self) -> bool:
        """Whether it goes away now."""
        return not self.finish and not self.left and self.leaves_at == len(self.given)

    def _right_end(self, *, failed: bool) -> FinishReason:
        to_blame = self.poison or self.deaths >= MOST_DEATHS
        if failed and (to_blame or self.unusable or self.nan_at == len(self.given)):
            return FinishReason.ERROR
        if self.given and self.given[-1] in self.request.ends:
            return FinishReason.STOP
        if len(self.given) == self.request.max_tokens:
            return FinishReason.LENGTH
        raise BrokenError(f"request {self.request.number} ends for no reason")


class Arrivals:
    """Makes clients: their prompts begin with one of a few texts."""

    def __init__(self, scenario: Scenario, chance: Random) -> None:
        self._scenario = scenario
        self._chance = chance
        limits = scenario.limits
        self._room = (limits.blocks - 1) * limits.block_tokens
        longest = int(self._room * _MOST_PROMPT)
        self._families = [
            [chance.randrange(2, VOCABULARY) for _ in range(longest)]
            for _ in range(scenario.families)
        ]
        self._number = 0
        self._said: Client | None = None

    def client(self) -> Client:
        """One more, which fits alone."""
        chance, scenario = self._chance, self._scenario
        prompt = self._prompt()
        most = min(
            self._room - len(prompt), 1 + int(chance.expovariate(1 / scenario.output_tokens))
        )
        request = GenerationRequest(
            number=self._number,
            id="",
            prompt=tuple(prompt),
            max_tokens=max(1, most),
            parameters=SamplingParameters(seed=chance.randrange(2**32)),
            ends=_ENDS if chance.random() < 0.5 else frozenset(),
            urgency=chance.randint(-2, 2),
            salt=chance.choice(["", "", "another"]),
        )
        self._number += 1
        return Client(
            request=request,
            nan_at=chance.randint(0, 5) if self._strikes(Fault.NAN) else None,
            unusable=self._strikes(Fault.ERROR),
            poison=self._strikes(Fault.POISON),
            leaves_at=chance.randint(0, 10) if self._strikes(Fault.CANCEL) else None,
        )

    def said(self, client: Client) -> None:
        """This one has been answered; others may go on from there."""
        self._said = client

    def _prompt(self) -> list[int]:
        """Something new after a beginning that others have, or after a whole text that was said."""
        chance, longest = self._chance, len(self._families[0])
        length = 1 + int(chance.expovariate(1 / self._scenario.prompt_tokens))
        before = chance.choice(self._families)[: length // 2]
        if self._said is not None and chance.random() < _GO_ON:
            said = self._said
            before = [*said.request.prompt, *said.given]
        new = [chance.randrange(VOCABULARY) for _ in range(length - length // 2)]
        return [*before[: longest - len(new)], *new][:longest]

    def _strikes(self, fault: Fault) -> bool:
        return self._chance.random() < self._scenario.rates.get(fault, 0.0)
