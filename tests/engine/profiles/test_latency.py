"""A latency's terms: their sums, chunks, mixed iterations, and fits to samples."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.errors import DataError, UsageError
from engine.profiles.latency import latency_of
from engine.profiles.latency_fit import fit_latency, fit_mixed
from engine.profiles.profile import Profile, read_profile, write_profile

if TYPE_CHECKING:
    from pathlib import Path

OPT = latency_of(
    (18.1e-3, 0.102e-3, 7.1e-9), (19.9e-3, 0.63e-6, 0.0385e-3), (7.2e-3, 0.58e-6, 0.158e-3), 95
)
CHUNKS = st.lists(st.integers(64, 900), min_size=1, max_size=8)


@settings(deadline=None)
@given(CHUNKS)
def test_chunks_of_a_prompt_add_up_to_the_prompt(chunks: list[int]) -> None:
    done, added = 0, 0.0
    for tokens in chunks:
        added += OPT.added_s(tokens, done)
        done += tokens
    assert added == pytest.approx(OPT.added_s(done))


def test_a_chunk_reads_what_is_cached_as_a_decode_does() -> None:
    context = 1000
    reading = OPT.added_s(1, context) - OPT.added_s(1)
    assert reading == pytest.approx(OPT.small.context * context)


def test_prefills_and_decodes_together_pay_for_the_weights_once() -> None:
    prefill, decode = OPT.prefill_s(512), OPT.decode_s(8, 4000)
    together = OPT.iteration_s([(512, 0)], 8, 4000)
    assert max(prefill, decode) < together < prefill + decode
    assert together == pytest.approx(decode + OPT.added_s(512))
    assert OPT.iteration_s([(512, 0)], 0, 0) == pytest.approx(prefill)
    assert OPT.iteration_s([], 8, 4000) == decode


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 2000), st.integers(0, 2000))), st.integers(0, 60))
def test_more_work_never_takes_less(prefills: list[tuple[int, int]], batch: int) -> None:
    less = OPT.iteration_s(prefills, batch, 100 * batch)
    assert OPT.iteration_s([*prefills, (1, 0)], batch, 100 * batch) > less
    assert OPT.iteration_s(prefills, batch + 1, 100 * (batch + 1)) >= less


def test_large_batches_have_terms_of_their_own() -> None:
    assert OPT.decode_s(94, 0) == pytest.approx(19.9e-3 + 94 * 0.0385e-3)
    assert OPT.decode_s(95, 0) == pytest.approx(7.2e-3 + 95 * 0.158e-3)


def samples(noise: float, seed: int = 0) -> tuple[list[Any], list[Any]]:
    rng = np.random.default_rng(seed)
    shapes = [[int(n)] * batch for n in (16, 128, 512, 1024, 2048) for batch in (1, 4)]
    prefills = [
        (each, OPT.iteration_s([(n, 0) for n in each], 0, 0) * (1 + noise * rng.normal()))
        for each in shapes
    ]
    decodes = [
        (batch, batch * context, OPT.decode_s(batch, batch * context) * (1 + noise * rng.normal()))
        for batch in (1, 4, 16, 64)
        for context in (32, 512, 2048)
    ]
    return prefills, decodes


def test_a_fit_finds_the_terms_that_made_the_samples() -> None:
    fit = fit_latency(*samples(0.0))
    assert fit.prefill_error < 1e-9 > fit.decode_error
    assert fit.latency.prefill.square == pytest.approx(OPT.prefill.square)
    assert fit.latency.small.sequence == pytest.approx(OPT.small.sequence)


def test_a_fit_to_noisy_samples_has_no_term_below_nothing() -> None:
    for seed in range(20):
        fit = fit_latency(*samples(0.05, seed))
        terms = fit.latency.prefill
        assert min(terms.constant, terms.token, terms.square) >= 0
        assert fit.prefill_error < 0.2
        assert fit.latency.prefill_s(700) == pytest.approx(OPT.prefill_s(700), rel=0.1)


def test_the_fit_is_the_best_of_non_negative_ones() -> None:
    rng = np.random.default_rng(7)
    prefills, decodes = samples(0.3, 3)
    best = fit_latency(prefills, decodes).latency.prefill

    def loss(constant: float, token: float, square: float) -> float:
        made = [constant + token * sum(n) + square * sum(i * i for i in n) for n, _ in prefills]
        return float(sum((m / s - 1) ** 2 for m, (_, s) in zip(made, prefills, strict=True)))

    found = loss(best.constant, best.token, best.square)
    for _ in range(300):
        factors = 1 + 0.3 * rng.normal(size=3)
        near = np.maximum(np.array([best.constant, best.token, best.square]) * factors, 0)
        assert loss(*near) >= found - 1e-12


def test_what_prompts_cost_beside_decodes_is_told_apart_from_an_iteration_of_their_own() -> None:
    true = replace(OPT, prefill=replace(OPT.prefill, sequence=2e-3))
    lengths = (16, 64, 192, 448)
    alone = [(n, true.iteration_s([(n, 0)], 0, 0)) for n in lengths]
    beside = true.decode_s(3, 300)
    mixed = [(n, beside, true.iteration_s([(n, 0)], 3, 300)) for n in lengths]
    plain = fit_latency([((n,), seconds) for n, seconds in alone], samples(0.0)[1]).latency
    assert plain.iteration_s([(64, 0)] * 2, 4, 400) < true.iteration_s([(64, 0)] * 2, 4, 400)
    found = fit_mixed(plain, alone, mixed)
    assert found.prefill.sequence == pytest.approx(2e-3)
    assert found.prefill_s(300) == pytest.approx(true.prefill_s(300))
    assert found.iteration_s([(64, 0)] * 2, 4, 400) == pytest.approx(
        true.iteration_s([(64, 0)] * 2, 4, 400)
    )


# -- the profile format ---


def profile(**changes: Any) -> dict[str, Any]:
    prefills, decodes = samples(0.0)
    made: dict[str, Any] = {
        "format": "opsuite-profile",
        "version": 1,
        "model": "tiny",
        "device": "a CPU",
        "origin": "measured",
        "kv_bytes_per_token": 1024,
        "configurations": [
            {
                "weight_bytes": [1000],
                "prefill": [{"lengths": n, "seconds": s} for n, s in prefills],
                "decode": [{"batch": b, "context_tokens": c, "seconds": s} for b, c, s in decodes],
            },
            {"op": 2, "pp": 2, "weight_bytes": [500, 500], "activation_bytes": [1, 2]},
        ],
    }
    return made | changes


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = Profile.model_validate_json(json.dumps(profile()))
    write_profile(made, tmp_path / "tiny.json")
    assert read_profile(tmp_path / "tiny.json") == made
    assert made.find().fit().latency.prefill_s(300) == pytest.approx(OPT.prefill_s(300))


def test_a_configuration_that_is_not_there_is_a_usage_error() -> None:
    made = Profile.model_validate_json(json.dumps(profile()))
    with pytest.raises(UsageError, match="no op=4") as error:
        made.find(op=4)
    assert "op=2 pp=2 sp=1" in error.value.remedy


def test_too_few_samples_to_fit_is_said() -> None:
    made = Profile.model_validate_json(json.dumps(profile()))
    with pytest.raises(DataError, match="0 prefill samples"):
        made.find(op=2, pp=2).fit()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": 2}, "version"),
        ({"format": "other"}, "format"),
        ({"origin": "guessed"}, "origin"),
        ({"kv_bytes_per_token": 0}, "kv_bytes_per_token"),
        ({"kv_bytes_per_token": "1024"}, "kv_bytes_per_token"),
        ({"configurations": []}, "configurations"),
        ({"configurations": [{"weight_bytes": [1, 2]}]}, "2 values for 1 stages"),
        ({"configurations": [{"weight_bytes": [1]}] * 2}, "twice"),
        ({"surprise": 1}, "surprise"),
        (
            {"configurations": [{"weight_bytes": [1], "prefill": [{"lengths": [], "seconds": 1}]}]},
            "configurations.0.prefill.0.lengths",
        ),
        (
            {
                "configurations": [
                    {"weight_bytes": [1], "prefill": [{"lengths": [1], "seconds": 0}]}
                ]
            },
            "configurations.0.prefill.0.seconds",
        ),
    ],
)
def test_a_wrong_profile_is_an_error_that_names_the_value(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(profile(**changes)))
    with pytest.raises(DataError, match=says) as error:
        read_profile(path)
    assert str(path) in error.value.where


def test_no_profile_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_profile(tmp_path / "none.json")
