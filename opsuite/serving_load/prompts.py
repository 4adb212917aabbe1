"""Prompts of a given length that share no beginning, so that no server has computed them before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from opsuite.serving_load.answer import Question

if TYPE_CHECKING:
    from engine.simulation.serve.request import Workload

_FIRST, _LAST = 1, 255  # ids that every byte-level vocabulary has
# One token each, with the space before it, in the vocabularies of most models.
_WORDS = (
    *("time", "year", "people", "way", "day", "man", "thing", "life", "child", "world", "school"),
    *("state", "family", "group", "country", "problem", "hand", "part", "place", "case", "week"),
    *("company", "system", "question", "work", "number", "night", "point", "home", "water", "room"),
    *("money", "story", "fact", "month", "book", "eye", "job", "word", "side", "kind", "head"),
)


def ask_workload(workload: Workload, *, seed: int, tokens: bool) -> tuple[Question, ...]:
    """Its requests with prompts.

    Args:
        seed: of the prompts alone.
        tokens: whether prompts are token ids; else they are words, of about one token each.
    """
    rng = np.random.default_rng((seed, 0x5EED))
    return tuple(
        Question(
            at_s=each.arrival_s,
            prompt=_ids(rng, each.prompt_tokens) if tokens else _words(rng, each.prompt_tokens),
            max_tokens=each.output_tokens,
        )
        for each in workload.requests
    )


def _ids(rng: np.random.Generator, count: int) -> tuple[int, ...]:
    return tuple(rng.integers(_FIRST, _LAST, count, endpoint=True).tolist())


def _words(rng: np.random.Generator, count: int) -> str:
    return " ".join(_WORDS[index] for index in rng.integers(len(_WORDS), size=count))
