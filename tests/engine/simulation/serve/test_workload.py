"""Named workloads: their parameters, chance by seed, arrivals and errors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from collectors.errors import UsageError
from engine.simulation.serve.workload import NAMES, find_workload, parse_workload

if TYPE_CHECKING:
    from engine.simulation.serve.request import Workload

TRACES = Path(__file__).parents[5] / "shared" / "traces"
needs_traces = pytest.mark.skipif(not TRACES.exists(), reason="no traces beside the checkout")


def lengths(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    pairs = np.array([(each.prompt_tokens, each.output_tokens) for each in workload.requests])
    return pairs[:, 0], pairs[:, 1]


@pytest.mark.parametrize(
    ("name", "prompt", "prompt_median", "output", "output_median"),
    [
        ("sharegpt-like", (4, 1024), 60, (4, 1024), 230),
        ("alpaca-like", (4, 200), 17, (2, 512), 40),
        ("heavy-tailed", (4, 1024), 64, (1, 1024), 32),
        ("leval-like", (2700, 210_000), 8900, (2, 500), 25),
        ("lveval-like", (15_200, 307_200), 68_000, (2, 150), 20),
    ],
)
def test_lengths_are_as_named(
    name: str,
    prompt: tuple[int, int],
    prompt_median: int,
    output: tuple[int, int],
    output_median: int,
) -> None:
    prompts, outputs = lengths(find_workload(name, requests=20_000))
    assert prompt[0] <= prompts.min() < prompts.max() <= prompt[1]
    assert output[0] <= outputs.min() < outputs.max() <= output[1]
    assert np.median(prompts) == pytest.approx(prompt_median, rel=0.06)
    assert np.median(outputs) == pytest.approx(output_median, rel=0.06)


def test_mixed_has_equal_shares_shuffled() -> None:
    prompts, _ = lengths(find_workload("mixed", requests=9_000))
    short = prompts <= 1024
    assert short.sum() == 3000
    assert short[:900].sum() == pytest.approx(300, abs=60)
    assert len(find_workload("mixed", requests=10).requests) == 10


def test_arrivals_have_their_rate_and_burstiness() -> None:
    for cv in (1.0, 4.0):
        drawn = find_workload("alpaca-like", rate=5.0, requests=50_000, cv=cv)
        gaps = np.diff([each.arrival_s for each in drawn.requests])
        assert gaps.min() >= 0
        assert gaps.mean() == pytest.approx(0.2, rel=0.06)
        assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.06)


def test_a_seed_decides_all_and_the_rate_only_the_pace() -> None:
    one = find_workload("sharegpt-like", rate=1.0, requests=50, seed=3)
    assert one == find_workload("sharegpt-like", rate=1.0, requests=50, seed=3)
    assert one != find_workload("sharegpt-like", rate=1.0, requests=50, seed=4)
    two = find_workload("sharegpt-like", rate=2.0, requests=50, seed=3)
    for slow, fast in zip(one.requests, two.requests, strict=True):
        assert fast.arrival_s == pytest.approx(slow.arrival_s / 2)
        assert fast.prompt_tokens == slow.prompt_tokens


@needs_traces
def test_azure_pairs_are_drawn_from_the_short_ones() -> None:
    for name in ("azure-conv", "azure-code"):
        drawn = find_workload(name, requests=12_000, traces=TRACES)
        prompts, outputs = lengths(drawn)
        assert len(prompts) == 12_000
        assert prompts.max() <= 1024
        assert (prompts + outputs).max() <= 2048


@needs_traces
def test_mooncake_has_its_own_times_scaled() -> None:
    own = find_workload("mooncake", requests=500, traces=TRACES)
    fast = find_workload("mooncake", rate=100.0, requests=500, traces=TRACES)
    assert fast.rate == pytest.approx(100.0)
    assert fast.span_s < own.span_s
    assert fast.requests[7].output_tokens == own.requests[7].output_tokens


def test_requests_that_cannot_fit_are_left_out_and_counted() -> None:
    drawn = find_workload("leval-like", requests=1000)
    fitting = drawn.fitting(14_000)
    assert 0 < fitting.dropped < 1000
    assert len(fitting.requests) + fitting.dropped == 1000
    assert max(each.tokens for each in fitting.requests) <= 14_000


def test_names_with_and_without_a_rate(tmp_path: Path) -> None:
    assert parse_workload("alpaca-like@2.5") == ("alpaca-like", 2.5)
    assert parse_workload("alpaca-like") == ("alpaca-like", None)
    odd = tmp_path / "a@3"
    odd.touch()
    assert parse_workload(str(odd)) == (str(odd), None)
    assert parse_workload(f"{odd}@4") == (str(odd), 4.0)


@pytest.mark.parametrize("rate", ["", "fast", "0", "-1", "nan", "inf"])
def test_what_is_no_rate_is_refused(rate: str) -> None:
    with pytest.raises(UsageError, match="is no rate"):
        parse_workload(f"alpaca-like@{rate}")


def test_an_unknown_workload_lists_the_known_ones() -> None:
    with pytest.raises(UsageError) as error:
        find_workload("sharegpt")
    assert all(name in error.value.remedy for name in NAMES)


def test_a_recorded_trace_that_is_not_there_is_told(tmp_path: Path) -> None:
    for traces in (None, tmp_path):
        with pytest.raises(UsageError, match="is not there") as error:
            find_workload("azure-conv", traces=traces)
        assert "--traces" in error.value.remedy
