"""Tokens are drawn from the right set, with the right frequency, whoever else is in the batch."""

from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch", reason="needs the engine extra")

from engine.serving.request import Sampling  # noqa: E402
from engine.serving.sampling import sample  # noqa: E402

PROBABILITIES = [0.05, 0.4, 0.05, 0.3, 0.2]
LOGITS = torch.tensor(PROBABILITIES).log()


def frequencies(sampling: Sampling, draws: int = 4000) -> list[float]:
    source = random.Random(7)
    rows = LOGITS.expand(draws, -1)
    tokens = sample(rows, [sampling] * draws, [source.random() for _ in range(draws)])
    return [tokens.count(token) / draws for token in range(5)]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=0.0), [0, 1, 0, 0, 0]),
        (Sampling(temperature=1e-9), [0, 1, 0, 0, 0]),
        (Sampling(), PROBABILITIES),
        (Sampling(top_k=2), [0, 4 / 7, 0, 3 / 7, 0]),
        (Sampling(top_k=1), [0, 1, 0, 0, 0]),
        (Sampling(top_k=99), PROBABILITIES),
        (Sampling(top_p=0.69), [0, 4 / 7, 0, 3 / 7, 0]),
        (Sampling(top_p=0.75), [0, 4 / 9, 0, 3 / 9, 2 / 9]),
        (Sampling(top_p=0.0), [0, 1, 0, 0, 0]),
        (Sampling(top_k=3, top_p=0.5), [0, 4 / 7, 0, 3 / 7, 0]),  # top_p of what top_k leaves
        (Sampling(temperature=0.5), [0.0084, 0.5378, 0.0084, 0.3025, 0.1345]),
    ],
)
def test_frequencies(sampling: Sampling, expected: list[float]) -> None:
    assert frequencies(sampling) == pytest.approx(expected, abs=0.03)
    zero = [token for token, share in enumerate(expected) if share == 0]
    assert all(frequencies(sampling)[token] == 0 for token in zero)


def test_a_row_does_not_depend_on_the_rest_of_its_batch() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(12, 50, generator=generator)
    kinds = [Sampling(temperature=0), Sampling(), Sampling(top_p=0.9), Sampling(top_k=5)] * 3
    draws = [row / 12 for row in range(12)]
    together = sample(logits, kinds, draws)
    alone = [sample(logits[i : i + 1], kinds[i : i + 1], draws[i : i + 1])[0] for i in range(12)]
    assert together == alone


def test_scores_that_are_not_finite_give_no_token() -> None:
    bad = torch.tensor([[0.0, float("nan")], [float("-inf")] * 2, [0.0, float("inf")], [0.0, 1.0]])
    for sampling in (Sampling(), Sampling(temperature=0), Sampling(top_p=0.5)):
        assert sample(bad, [sampling] * 4, [0.5] * 4)[:3] == [-1, -1, -1]
        assert sample(bad, [sampling] * 4, [0.9] * 4)[3] == 1
