"""Greedy output equals transformers', whatever is batched, cut, shared, dropped and swapped."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the engine extra")
pytest.importorskip("transformers", reason="the oracle is not installed")

from engine.scheduling.iteration import Iteration, Work  # noqa: E402
from engine.scheduling.job import Job, Place  # noqa: E402
from engine.scheduling.limits import Limits  # noqa: E402
from engine.serving.paged.cache import PagedCache  # noqa: E402
from engine.serving.paged.runner import PagedRunner  # noqa: E402
from engine.serving.paged.storage import Storage  # noqa: E402

if TYPE_CHECKING:
    from engine.models.transformer import Transformer

BLOCK = 4
TIE = 1e-4


def runner_of(model: Transformer, blocks: int = 60, host_blocks: int = 40) -> PagedRunner:
    limits = Limits(max_batch=8, blocks=blocks, block_tokens=BLOCK, host_blocks=host_blocks)
    cpu = torch.device("cpu")
    storage = Storage(model.config, limits, device=cpu, dtype=torch.float32)
    for blocks_of_all in (storage.device_blocks, storage.host_blocks):
        blocks_of_all.fill_(float("nan"))  # what is not written must not be read
    return PagedRunner(model, PagedCache(storage, limits, salt=b"test"))


class Chaos:
    """A scheduler that decides by chance, within what fits."""

    def __init__(
        self, runner: PagedRunner, prompts: list[list[int]], output: int, seed: int
    ) -> None:
        self.chance = random.Random(seed)
        self.runner, self.cache = runner, runner.cache
        self.texts = {number: list(prompt) for number, prompt in enumerate(prompts)}
        self.live = [
            Job(number=n, arrived_s=0.0, prompt_tokens=len(prompt), max_tokens=output)
            for n, prompt in enumerate(prompts)
        ]

    def step(self) -> None:
        iteration = self.iteration()
        self.runner.cache.move(iteration)
        moved = set(self.cache.arrived())
        self.cache.collect(moved)
        scores = self.runner.compute(iteration.work, self.texts)
        for job in (*iteration.offload, *iteration.upload):
            assert job.number in moved
            job.place = Place.HOST if job in iteration.offload else Place.DEVICE
        tokens = iter(scores.argmax(dim=-1).tolist())
        for work in iteration.work:
            self.count(work, next(tokens) if work.gives else None)

    def count(self, work: Work, token: int | None) -> None:
        job = work.job
        job.cached = work.first + work.tokens
        if token is None:
            return
        if self.chance.random() < 0.7:
            text = self.texts[job.number]
            self.cache.publish(job.number, text, len(text))
        self.texts[job.number].append(token)
        job.generated += 1
        if job.generated == job.max_tokens:
            self.live.remove(job)
            self.cache.free(job.number)

    def iteration(self) -> Iteration:
        drop, offload, upload = [], [], []
        for job in self.chance.sample(self.live, len(self.live)):
            does = self.chance.random()
            if job.place is Place.DEVICE and does < 0.06:
                drop.append(job)
            elif job.place is Place.DEVICE and does < 0.15:
                offload.append(job)
            elif job.place is Place.HOST and does < 0.5:
                upload.append(job)
        for job in drop:
            job.place, job.cached, job.shared = Place.NOWHERE, 0, 0
            self.cache.free(job.number)
        here = self.cache.available
        for job in upload:
            job.place = Place.UPLOADING
            here -= len(self.cache.table(job.number).host)
        for job in offload:
            job.place = Place.OFFLOADING
        assert here >= 0, "blocks suffice for all"
        return Iteration(
            work=tuple(self.work()), drop=tuple(drop), offload=tuple(offload), upload=tuple(upload)
        )

    def work(self) -> list[Work]:
        chosen = self.chance.sample(self.live, self.chance.randint(0, len(self.live)))
        found = []
        for job in chosen:
            if job.place not in (Place.NOWHERE, Place.DEVICE):
                continue
            if job.place is Place.NOWHERE and job.number not in self.cache:
                self.begin(job)
            job.place = Place.DEVICE
            tokens = self.chance.choice([job.due, self.chance.randint(1, job.due)])
            gives = tokens == job.due
            found.append(Work(job=job, first=job.cached, tokens=tokens, gives=gives))
        return found

    def begin(self, job: Job) -> None:
        if self.chance.random() < 0.5:
            expected = self.chance.choice([0, job.prompt_tokens + job.max_tokens])
            text = self.texts[job.number]
            job.cached = job.shared = self.cache.begin(job.number, text, expected=expected)


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 10**6))
def test_greedy_equals_transformers(oracle: Any, seed: int) -> None:
    runner = runner_of(oracle.model, blocks=6 * 15 + seed % 20, host_blocks=6 * 15)
    chaos = Chaos(runner, oracle.prompts, len(oracle.outputs[0]), seed)
    steps = 0
    while chaos.live:
        chaos.step()
        steps += 1
        assert steps < 3000
    ties = 0
    for number, expected in enumerate(oracle.outputs):
        got = chaos.texts[number][len(oracle.prompts[number]) :]
        if got != expected:
            place = next(at for at, token in enumerate(expected) if got[at] != token)
            assert oracle.gap(number, place) < TIE, (number, place)
            ties += 1
    print(f"divergences at ties: {ties} of {len(oracle.outputs)}")
    cache = runner.cache
    assert (cache.used, cache.host_used) == (0, 0)
    assert cache.available == 6 * 15 + seed % 20
    cache.forget_prefixes()
    assert cache.idle == 0


def test_scores_of_a_poisoned_request_meet_no_other(oracle: Any) -> None:
    """A token whose embedding is NaN: others are sound beside it and after it."""
    runner = runner_of(oracle.model, blocks=4)  # the last one's are the poisoned one's
    embedding = oracle.model.model.embed_tokens.weight
    saved, bad = embedding[3].clone(), [3] * 9
    texts = {0: [7, 8, 9, 10], 1: bad, 2: [7, 8, 9, 10]}
    jobs = [
        Job(number=n, arrived_s=0.0, prompt_tokens=len(text), max_tokens=6)
        for n, text in texts.items()
    ]

    def work(job: Job, first: int) -> Work:
        return Work(job=job, first=first, tokens=len(texts[job.number]) - first, gives=True)

    embedding[3] = float("nan")
    try:
        before = runner.compute([work(jobs[0], 0), work(jobs[1], 0)], texts)[:, 4:]
        assert before[0].isfinite().all()
        assert not before[1].isfinite().any()
        runner.cache.free(1)
        assert runner.cache.available == 3
        for text in texts.values():
            text.append(11)
        decoded = runner.compute([work(jobs[0], 4), work(jobs[2], 0)], texts)[:, 4:]
        assert decoded.isfinite().all()
        assert torch.allclose(decoded[0], decoded[1], rtol=1e-4, atol=1e-4)
    finally:
        embedding[3] = saved


def test_a_shared_prefix_is_not_computed_again_and_is_given_up_for_room(oracle: Any) -> None:
    runner = runner_of(oracle.model, blocks=16)
    cache, text = runner.cache, oracle.prompts[0]
    job = Job(number=0, arrived_s=0.0, prompt_tokens=40, max_tokens=1)
    alone = runner.compute([Work(job=job, first=0, tokens=40, gives=True)], {0: text})
    cache.publish(0, text, len(text))
    assert cache.begin(1, text) == 36
    assert cache.begin(2, text, salt=b"another") == 0
    assert cache.used == 10
    again = Job(number=1, arrived_s=0.0, prompt_tokens=40, max_tokens=1)
    shared = runner.compute([Work(job=again, first=36, tokens=4, gives=True)], {1: text})
    assert torch.allclose(alone, shared, rtol=1e-4, atol=1e-4)
    for number in (0, 1, 2, 77):
        cache.free(number)
    assert (cache.used, cache.idle, cache.available) == (0, 10, 16)
    cache.begin(3)
    cache.extend(3, 64)
    assert (cache.used, cache.idle) == (16, 0)
    cache.free(3)
    assert cache.available == 16


def test_parallel_blocks_are_the_training_engines() -> None:
    """transformers knows none: the same scores as the model that was trained."""
    from engine.models.config import ModelConfig
    from engine.models.initialization import initialize
    from engine.models.transformer import Transformer

    config = ModelConfig(
        vocab_size=260, hidden_size=32, n_layers=2, n_heads=4, n_kv_heads=2, intermediate_size=48,
        parallel_block=True,
    )  # fmt: skip
    model = Transformer(config).requires_grad_(False)
    initialize(model, 1)
    text = list(range(5, 25))
    expected = model(torch.tensor([text]))[0, -1]
    runner = runner_of(model)
    job = Job(number=0, arrived_s=0.0, prompt_tokens=20, max_tokens=1)
    runner.compute([Work(job=job, first=0, tokens=13, gives=False)], {0: text})
    scores = runner.compute([Work(job=job, first=13, tokens=7, gives=True)], {0: text})
    assert torch.allclose(scores[0], expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(model(torch.tensor([text]))[0, -1], expected), "the model is as it was"
