"""Measured times: they know a prompt's length, and what is measured fits the blocks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs the engine extra")

import torch

from engine.models.config import ModelConfig
from engine.models.transformer import Transformer
from engine.profiles.latency import latency_of
from engine.profiles.latency_fit import fit_latency
from engine.scheduling.job import Job
from engine.scheduling.limits import Limits
from engine.scheduling.skip_join import SkipJoin
from engine.serving.paged.cache import PagedCache
from engine.serving.paged.runner import PagedRunner
from engine.serving.paged.storage import Storage
from engine.serving.worker.calibration import Plan, brief_plan, full_plan, measure

if TYPE_CHECKING:
    from engine.profiles.latency import Latency

LIMITS = Limits(max_batch=4, blocks=256, prefill_tokens=1024)


def runner_on(device: str) -> PagedRunner:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=320, hidden_size=64, n_layers=2, max_seq_len=1024)
    model = Transformer(config).to(device).eval().requires_grad_(requires_grad=False)
    storage = Storage(config, LIMITS, device=torch.device(device), dtype=torch.float32)
    return PagedRunner(model, PagedCache(storage, LIMITS, salt=b""))


def queues(latency: Latency, *lengths: int) -> list[int]:
    """Where skip-join puts prompts of these lengths when they arrive."""
    policy = SkipJoin(latency)
    jobs = [
        Job(number=number, arrived_s=0.0, prompt_tokens=length, max_tokens=8)
        for number, length in enumerate(lengths)
    ]
    for job in jobs:
        policy.arrive(job, 0.0)
    return [policy.queue(job) for job in jobs]


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
        ),
    ]
)
def measured(request: pytest.FixtureRequest) -> Latency:
    """On a GPU a launch takes as long for one token as for a thousand."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    runner = runner_on(request.param)
    prefills, decodes = measure(runner, full_plan(LIMITS, max_len=1024, rounds=3))
    torch.set_num_threads(threads)
    assert runner.cache.used == 0, "all blocks are given back"
    return fit_latency(
        [(each.lengths, each.seconds) for each in prefills],
        [(each.batch, each.context_tokens, each.seconds) for each in decodes],
    ).latency


def test_a_long_prompt_skips_queues_by_measured_times(measured: Latency) -> None:
    short, long = queues(measured, 4, 1000)
    assert short < long, measured


def test_a_long_prompt_skips_none_by_times_of_launches() -> None:
    """What would go wrong: by such times every prompt joins the first queue."""
    launches = latency_of((0.002, 0.0, 0.0), (0.002, 0.0, 0.0))
    assert queues(launches, 4, 1000) == [0, 0]


@settings(max_examples=200, deadline=None)
@given(
    max_batch=st.integers(1, 300),
    blocks=st.integers(0, 400),
    max_len=st.integers(2, 5000),
    prefill_tokens=st.integers(1, 9000),
    whole=st.booleans(),
)
def test_what_is_planned_fits(
    max_batch: int, blocks: int, max_len: int, prefill_tokens: int, whole: bool
) -> None:
    """And there is enough of it to fit terms, however small the engine."""
    limits = Limits(
        max_batch=max_batch,
        blocks=blocks + -(-max_len // 16),
        prefill_tokens=None if whole else prefill_tokens,
    )
    for plan in (
        brief_plan(limits, max_len=max_len),
        full_plan(limits, max_len=max_len, rounds=1),
    ):
        assert plan.prefills
        assert plan.decodes
        for lengths in plan.prefills:
            assert min(lengths) >= 1
            assert max(lengths) < max_len
            assert len(lengths) <= max_batch
            assert sum(lengths) <= (limits.prefill_tokens or max_len)
            assert sum(map(limits.blocks_of, lengths)) <= limits.blocks
        for batch, context in plan.decodes:
            assert 1 <= batch <= max_batch
            assert 1 <= context < max_len
            assert batch * limits.blocks_of(context + 1) <= limits.blocks


def test_the_median_of_the_rounds_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 90, 0, 1, 0, 5, 0, 3])  # starts and ends of one point's passes
    told = SimpleNamespace(perf_counter=lambda: float(next(clock)))  # to this module alone
    monkeypatch.setattr("engine.serving.worker.calibration.time", told)
    prefills, decodes = measure(runner_on("cpu"), Plan(prefills=((4,),), decodes=(), rounds=3))
    assert [each.seconds for each in prefills] == [3.0]
    assert decodes == []
