"""Tokens are chosen as a float64 reference says, whoever else is in the batch."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the engine extra")

from engine.serving.sampling.draw import draw  # noqa: E402
from engine.serving.sampling.parameters import (  # noqa: E402
    Candidate,
    SamplingParameters,
)
from engine.serving.sampling.sampler import choose  # noqa: E402

V = 300  # more than the few that are tried first


def reference(logits: list[float], each: Candidate) -> dict[int, float]:
    """Probabilities of the tokens that may be chosen, one step after another."""
    p, output = each.parameters, Counter(each.output)
    seen = set(each.prompt) | set(each.output)
    for token, bias in p.logit_bias.items():
        logits[token] += bias
    for token in seen:
        by = p.repetition_penalty
        logits[token] = logits[token] / by if logits[token] > 0 else logits[token] * by
    for token, count in output.items():
        logits[token] -= p.frequency_penalty * count + p.presence_penalty
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if p.greedy:
        return {order[0]: 1.0}
    best = logits[order[0]]
    mass = {token: math.exp((logits[token] - best) / p.temperature) for token in order}
    mass = {token: m for token, m in mass.items() if m >= p.min_p}
    mass = dict(list(mass.items())[: p.top_k or len(logits)])
    total, before = sum(mass.values()), 0.0
    kept: dict[int, float] = {}
    for token, m in mass.items():
        if before < p.top_p * total or not kept:
            kept[token] = m
        before += m
    total = sum(kept.values())
    return {token: m / total for token, m in kept.items()}


def expected(logits: Any, each: Candidate) -> int:
    """The token that the draw falls on: in the order of likelihood where tokens are left out by
    order, else by number."""
    p = each.parameters
    kept = reference(logits.double().tolist(), each)
    ordered = list(kept) if p.top_k or p.top_p < 1 else sorted(kept)
    at, summed = draw(p.seed, len(each.output)), 0.0
    for token in ordered:
        summed += kept[token]
        if at < summed:
            return token
    return ordered[-1]


PARAMETERS = st.builds(
    SamplingParameters,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_p=st.sampled_from([0.0, 0.3, 0.9, 0.999, 1.0]),
    top_k=st.sampled_from([0, 1, 5, 200, 999]),
    min_p=st.sampled_from([0.0, 0.05, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    presence_penalty=st.sampled_from([0.0, 0.7]),
    frequency_penalty=st.sampled_from([0.0, -0.4, 1.1]),
    logit_bias=st.dictionaries(st.integers(0, V - 1), st.sampled_from([-100.0, 3.3]), max_size=3),
    seed=st.integers(-(2**63), 2**63 - 1),
    logprobs=st.sampled_from([None, 0, 3]),
)
TEXT = st.lists(st.integers(0, V - 1), max_size=12)
CANDIDATE = st.builds(Candidate, parameters=PARAMETERS, prompt=TEXT, output=TEXT)


@settings(max_examples=60, deadline=None)
@given(st.lists(CANDIDATE, min_size=1, max_size=5), st.integers(0, 999), st.sampled_from([0.1, 3]))
def test_every_row_is_the_references(candidates: list[Candidate], seed: int, spread: float) -> None:
    logits = torch.randn(len(candidates), V, generator=torch.Generator().manual_seed(seed)) * spread
    chosen = choose(logits, candidates)
    alone = [choose(logits[i : i + 1], [each])[0] for i, each in enumerate(candidates)]
    assert chosen == alone
    for row, each, got in zip(logits, candidates, chosen, strict=True):
        assert got.token == expected(row, each)
        logprobs = row.double().log_softmax(dim=-1)
        if each.parameters.logprobs is None:
            assert (got.logprob, got.likeliest) == (None, ())
        else:
            assert got.logprob == pytest.approx(float(logprobs[got.token]), abs=1e-4)
            best = logprobs.topk(each.parameters.logprobs)
            assert [token for token, _ in got.likeliest] == best.indices.tolist()
            told = [logprob for _, logprob in got.likeliest]
            assert told == pytest.approx(best.values.tolist(), abs=1e-4)


def test_frequencies() -> None:
    """4,000 draws of one request are distributed as the reference says."""
    parameters = SamplingParameters(temperature=0.8, top_p=0.9, seed=5)
    logits = torch.tensor([0.05, 0.4, 0.05, 0.3, 0.2]).log()
    outputs: list[list[int]] = [[0] * place for place in range(4000)]
    candidates = [Candidate(parameters=parameters, prompt=[], output=each) for each in outputs]
    got = Counter(each.token for each in choose(logits.expand(4000, -1), candidates))
    kept = reference(logits.double().tolist(), candidates[0])
    assert got.keys() == kept.keys()
    for token, share in kept.items():
        assert got[token] / 4000 == pytest.approx(share, abs=0.03)


def test_scores_that_are_not_finite_give_no_token_and_meet_no_other() -> None:
    good = [0.0, 1.0, 2.0]
    bad = [[0.0, math.nan, 1.0], [-math.inf] * 3, [0.0, math.inf, 1.0]]
    for parameters in (
        SamplingParameters(logprobs=2),
        SamplingParameters(temperature=0),
        SamplingParameters(top_p=0.5, repetition_penalty=1.2),
    ):
        candidate = Candidate(parameters=parameters, prompt=[1], output=[2])
        chosen = choose(torch.tensor([*bad, good]), [candidate] * 4)
        assert [each.token for each in chosen[:3]] == [-1, -1, -1]
        assert chosen[3:] == choose(torch.tensor([good]), [candidate])
