"""How long jobs may take, by what would have become of them under first come, first served."""

from __future__ import annotations

import math

from engine.scheduling.window import Window

_LONG = 1.25  # for 1.5 in the end: what FCFS would do is an estimate
_OTHERS = 30.0
_TENTH = 10
_NEARLY = 0.11  # as the longest tenth, since which prompts are in it is known only later
_PROMPTS = 5_000
_TIMES = 1_000


class Promises:
    """Long prompts, which an index puts off first, are to have a 99th percentile as FCFS would have
    it, and little more: each may take 1.25 times what 99 of 100 long ones would have taken under
    FCFS lately; others 30 times as long, so that nobody waits for ever.

    Nothing is promised before a few long ones would have ended.
    """

    def __init__(self) -> None:
        self._prompts = Window(_PROMPTS)
        self._times = Window(_TIMES)

    def is_long(self, prompt_tokens: int) -> bool:
        """Among the longest that came lately, this one too."""
        self._prompts.add(prompt_tokens)
        return prompt_tokens >= self._longest(_NEARLY)

    def ended(self, prompt_tokens: int, seconds: float) -> None:
        """FCFS would have taken so long for one."""
        if prompt_tokens >= self._longest(1 / _TENTH):
            self._times.add(seconds)

    def allowed_s(self, *, long: bool) -> float:
        """Seconds from arrival; infinity where it is not known yet."""
        index = math.floor(0.99 * len(self._times)) - 1  # of few, the largest may be a freak
        if index < 0:
            return math.inf
        return (_LONG if long else _OTHERS) * self._times.at(index)

    def _longest(self, share: float) -> float:
        return self._prompts.at(math.floor((1 - share) * len(self._prompts)))
