"""The engine against transformers, and what it does when something goes wrong."""

from __future__ import annotations

import json
import shutil
import threading
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="needs the engine extra")
transformers = pytest.importorskip("transformers", reason="the oracle is not installed")

from collectors.recorder import NullRecorder  # noqa: E402
from engine.serving.cache import KeyValueCache  # noqa: E402
from engine.serving.engine import Engine  # noqa: E402
from engine.serving.loader import LoadedModel, load_model  # noqa: E402
from engine.serving.policies.fcfs import FirstComeFirstServed  # noqa: E402
from engine.serving.policies.policy import Capacity  # noqa: E402
from engine.serving.request import (  # noqa: E402
    Delta,
    FinishReason,
    GenerationRequest,
    Sampling,
)
from engine.serving.runner import ModelRunner  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

MAX_LEN = 128
GREEDY = Sampling(temperature=0.0)


class FaultyRunner(ModelRunner):
    """Raises for requests that are marked, in prefill or in every batch that they are in."""

    bad_prefill: frozenset[int] = frozenset()
    bad_decode: frozenset[int] = frozenset()
    batches: list[int]
    decoded: threading.Event

    def prefill(self, number: int, prompt: Sequence[int]) -> Any:
        if number in self.bad_prefill:
            self.cache.allocate(number)
            raise MemoryError("no memory for it")
        return super().prefill(number, prompt)

    def decode(self, latest: Mapping[int, int]) -> Any:
        if self.bad_decode & latest.keys():
            raise RuntimeError("cannot be computed")
        self.batches.append(len(latest))
        self.decoded.set()
        return super().decode(latest)


class Harness:
    """An engine whose deltas are collected."""

    def __init__(
        self,
        model: LoadedModel,
        max_batch: int,
        kv_tokens: int | None = None,
        end_tokens: frozenset[int] = frozenset(),
    ) -> None:
        cpu = torch.device("cpu")
        self.cache = KeyValueCache(
            model.config, max_batch=max_batch, max_len=MAX_LEN, device=cpu, dtype=torch.float32
        )
        self.runner = FaultyRunner(model.network, self.cache)
        self.runner.batches = []
        self.runner.decoded = threading.Event()
        self.policy = FirstComeFirstServed(
            Capacity(max_batch=max_batch, kv_tokens=kv_tokens or max_batch * MAX_LEN)
        )
        self.engine = Engine(
            runner=self.runner,
            policy=self.policy,
            vocabulary=model.vocabulary,
            end_tokens=end_tokens,
            recorder=NullRecorder(),
            emit=self._collect,
        )
        self.texts: dict[int, str] = {}
        self.finals: dict[int, Delta] = {}
        self.emitted: list[list[int]] = []
        self._news = threading.Condition()

    def _collect(self, deltas: list[Delta]) -> None:
        with self._news:
            self.emitted.append([delta.number for delta in deltas])
            for delta in deltas:
                self.texts[delta.number] = self.texts.get(delta.number, "") + delta.text
                if delta.finish:
                    self.finals[delta.number] = delta
            self._news.notify_all()

    def reasons(self, count: int) -> dict[int, FinishReason | None]:
        """Wait until so many requests have ended; why each did."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.finals) >= count, timeout=30)
            return {number: delta.finish for number, delta in sorted(self.finals.items())}


@pytest.fixture(scope="module")
def model(model_directory: Path) -> LoadedModel:
    torch.set_num_threads(1)
    return load_model(model_directory, torch.device("cpu"))


@pytest.fixture
def harness(model: LoadedModel) -> Iterator[Harness]:
    harness = Harness(model, max_batch=4)
    harness.engine.start()
    yield harness
    harness.engine.stop()


def request(
    number: int, prompt: Sequence[int], max_tokens: int, **fields: Any
) -> GenerationRequest:
    fields.setdefault("sampling", GREEDY)
    return GenerationRequest(
        number=number, id="test", prompt=tuple(prompt), max_tokens=max_tokens, **fields
    )


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 40, (count,), generator=generator).tolist()
    return [torch.randint(1, 280, (n,), generator=generator).tolist() for n in lengths]


def oracle_of(directory: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64).eval()


@pytest.fixture(scope="module")
def oracle(model_directory: Path) -> Any:
    return oracle_of(model_directory)


def with_window(directory: Path, to: Path, window: int) -> Path:
    """The same weights, of a model that looks back so far."""
    shutil.copytree(directory, to)
    config = json.loads((to / "config.json").read_text())
    kind = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    (to / "config.json").write_text(json.dumps(config | kind | {"sliding_window": window}))
    return to


def generate(oracle: Any, prompt: list[int], tokens: int) -> list[int]:
    """Greedy tokens of transformers, past any end-of-sequence token."""
    output = oracle.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return list(output[0, len(prompt) :].tolist())


def smallest_gap(oracle: Any, prompt: list[int], generated: list[int]) -> float:
    """Between the two best scores, over all the tokens generated."""
    with torch.inference_mode():
        scores = oracle(torch.tensor([prompt + generated])).logits[0, len(prompt) - 1 : -1]
    best = scores.topk(2).values
    return float((best[:, 0] - best[:, 1]).min())


def test_a_first_token_does_not_wait_for_the_prompts_behind_it(harness: Harness) -> None:
    harness.engine.submit([request(n, prompt, 1) for n, prompt in enumerate(prompts(3))])
    harness.reasons(3)
    assert harness.emitted == [[0], [1], [2]]


@pytest.mark.parametrize("window", [0, 9])
def test_greedy_equals_transformers_while_requests_join_and_leave(
    model_directory: Path, tmp_path: Path, window: int
) -> None:
    """12 requests of different lengths over 3 rows, with a tight KV budget: all as if alone."""
    directory = (
        with_window(model_directory, tmp_path / "window", window) if window else model_directory
    )
    model, oracle = load_model(directory, torch.device("cpu")), oracle_of(directory)
    harness = Harness(model, max_batch=3, kv_tokens=150)
    given = prompts(12)
    outputs = [5 + 3 * number for number in range(12)]
    requests = [
        request(n, prompt, tokens, ignore_eos=True)
        for n, (prompt, tokens) in enumerate(zip(given, outputs, strict=True))
    ]
    harness.engine.start()
    try:
        harness.engine.submit(requests[:5])
        assert harness.runner.decoded.wait(10)
        harness.engine.submit(requests[5:])
        assert set(harness.reasons(12).values()) == {FinishReason.LENGTH}
    finally:
        harness.engine.stop()
    assert {2, 3} <= set(harness.runner.batches), "batches were mixed"
    ties = 0
    for number, prompt in enumerate(given):
        generated = generate(oracle, prompt, outputs[number])
        if harness.texts[number] != model.vocabulary.text_of(generated):
            assert smallest_gap(oracle, prompt, generated) < 1e-4, number
            ties += 1
    assert ties <= 1
    assert (harness.cache.requests, harness.cache.tokens) == (0, 0)


def test_sampled_text_is_the_same_alone_and_in_a_crowd(harness: Harness) -> None:
    sampling = Sampling(temperature=0.9, top_p=0.95, seed=11)
    prompt = prompts(1, seed=4)[0]
    harness.engine.submit([request(0, prompt, 30, sampling=sampling, ignore_eos=True)])
    harness.reasons(1)
    crowd = [
        request(n, p, 20, sampling=Sampling(seed=n)) for n, p in enumerate(prompts(7), start=1)
    ]
    harness.engine.submit([*crowd[:3], request(99, prompt, 30, sampling=sampling, ignore_eos=True)])
    harness.engine.submit(crowd[3:])
    harness.reasons(9)
    assert harness.texts[99] == harness.texts[0]
    assert len({harness.texts[n] for n in range(1, 8)}) > 1


def test_end_tokens_and_stop_strings_end_a_request(model: LoadedModel, oracle: Any) -> None:
    prompt = prompts(1, seed=2)[0]
    generated = generate(oracle, prompt, 40)
    whole = model.vocabulary.text_of(generated)
    place = next(i for i, token in enumerate(generated) if i > 10 and token not in generated[:i])
    stop = whole[len(whole) // 3 :][:3]
    harness = Harness(model, max_batch=2, end_tokens=frozenset({generated[place]}))
    harness.engine.start()
    try:
        harness.engine.submit([request(0, prompt, 40, ignore_eos=True), request(1, prompt, 40)])
        harness.engine.submit([request(2, prompt, 40, ignore_eos=True, stop=("???", stop))])
        reasons = harness.reasons(3)
    finally:
        harness.engine.stop()
    assert list(reasons.values()) == [FinishReason.LENGTH, FinishReason.STOP, FinishReason.STOP]
    assert harness.texts[0] == whole
    assert harness.texts[1] == model.vocabulary.text_of(generated[: place + 1])
    assert harness.finals[1].tokens == place + 1
    assert harness.texts[2] == whole[: whole.index(stop)]


def test_one_bad_request_ends_alone(harness: Harness) -> None:
    good = prompts(3, seed=6)
    harness.engine.submit([request(n, p, 8, ignore_eos=True) for n, p in enumerate(good)])
    harness.reasons(3)
    harness.runner.bad_prefill = frozenset({10})
    harness.runner.bad_decode = frozenset({11})
    again = [request(20 + n, p, 8, ignore_eos=True) for n, p in enumerate(good)]
    harness.engine.submit([request(10, [1], 5), again[0], request(11, [1], 5), *again[1:]])
    reasons = harness.reasons(8)
    assert {n for n, r in reasons.items() if r is FinishReason.ERROR} == {10, 11}
    assert [harness.texts[20 + n] for n in range(3)] == [harness.texts[n] for n in range(3)]
    assert (harness.cache.requests, harness.cache.tokens) == (0, 0)
    assert harness.engine.alive


def test_scores_that_are_not_finite_end_their_request_and_poison_no_other(
    model: LoadedModel, harness: Harness
) -> None:
    prompt = [7, 8, 9]
    harness.engine.submit([request(0, prompt, 6, ignore_eos=True)])
    harness.reasons(1)
    embedding = model.network.model.embed_tokens.weight
    saved = embedding[3].clone()
    try:
        with torch.no_grad():
            embedding[3] = float("nan")
        harness.engine.submit([request(n, [3] * 20, 6) for n in (1, 2, 3, 4)])
        reasons = harness.reasons(5)
    finally:
        with torch.no_grad():
            embedding[3] = saved
    assert [reasons[n] for n in (1, 2, 3, 4)] == [FinishReason.ERROR] * 4
    harness.engine.submit([request(n, prompt, 6, ignore_eos=True) for n in (5, 6, 7, 8)])
    harness.reasons(9)
    assert {harness.texts[n] for n in (5, 6, 7, 8)} == {harness.texts[0]}


def test_cancelling_frees_rows_of_waiting_and_running_requests(harness: Harness) -> None:
    harness.engine.submit([request(n, [n + 1], 100, ignore_eos=True) for n in range(8)])
    assert harness.runner.decoded.wait(10)
    harness.engine.cancel(range(8))
    harness.engine.cancel([3, 77])  # ended or unknown: passed over
    reasons = harness.reasons(8)
    assert FinishReason.CANCELLED in reasons.values()
    assert (harness.cache.requests, harness.cache.tokens) == (0, 0)
    harness.engine.submit([request(100, [1], 3, ignore_eos=True)])
    assert harness.reasons(9)[100] is FinishReason.LENGTH


def test_every_client_hears_of_the_engines_own_failure(model: LoadedModel) -> None:
    harness = Harness(model, max_batch=2)
    harness.policy.schedule = lambda now: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    harness.engine.start()
    harness.engine.submit([request(n, [1], 5) for n in range(3)])
    assert set(harness.reasons(3).values()) == {FinishReason.ERROR}
    harness.engine.stop()
    assert not harness.engine.alive
