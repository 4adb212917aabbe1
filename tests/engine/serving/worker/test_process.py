"""The engine's process from outside: two ranks give what one gives, and a kill loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

import psutil
import pytest

pytest.importorskip("torch", reason="needs the engine extra")
pytest.importorskip("transformers", reason="the oracle is not installed")

from collectors.errors import RunFailed, UsageError
from engine.elastic.registry import FLEET_POLICIES
from engine.profiles.profile import (
    Configuration,
    DecodeSample,
    PrefillSample,
    Profile,
    write_profile,
)
from engine.scheduling.registry import LIVE_POLICIES
from engine.serving.api.engine_link import EngineLink
from engine.serving.config import ServingConfig
from engine.serving.request import FinishReason, GenerationRequest, Token
from engine.serving.sampling.parameters import SamplingParameters
from engine.serving.wire import Start

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path


class Client:
    """Submits requests to an engine's process, and checks that each token comes once, in order."""

    def __init__(self, directory: Path, *, patience_s: float = 60.0, **options: Any) -> None:
        config = ServingConfig(device="cpu", threads=1, **options)
        start = Start(directory=str(directory), config=config.model_dump_json())
        self.link = EngineLink(start, patience_s=patience_s)
        self.outputs: dict[int, list[int]] = {}
        self.finished: dict[int, FinishReason] = {}
        self.heard = asyncio.Event()

    def take(self, tokens: Sequence[Token]) -> None:
        for token in tokens:
            assert token.number not in self.finished
            output = self.outputs.setdefault(token.number, [])
            assert token.place == len(output)
            if not token.failed:
                output.append(token.token)
            if token.finish:
                self.finished[token.number] = token.finish
        self.heard.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await self.heard.wait()
                self.heard.clear()


def converse(client: Client, body: Callable[[Client], Awaitable[None]]) -> None:
    """Run the body with an engine, and see to it that no process is left."""

    async def whole() -> None:
        await client.link.open(client.take)
        tasks = [asyncio.create_task(work) for work in (client.link.run(), client.link.watch())]
        try:
            await body(client)
        finally:
            await client.link.close()
            for task in tasks:
                task.cancel()

    asyncio.run(whole())
    assert not [child for child in psutil.Process().children() if "worker" in child.cmdline()]


def requests_of(oracle: Any, tokens: int, **parameters: Any) -> list[GenerationRequest]:
    return [
        GenerationRequest(
            number=number,
            id="",
            prompt=tuple(prompt),
            max_tokens=tokens,
            parameters=SamplingParameters(**parameters),
        )
        for number, prompt in enumerate(oracle.prompts)
    ]


MESHES = [(2, 1), *(pytest.param(*mesh, marks=pytest.mark.slow) for mesh in ((1, 2), (2, 2)))]
POLICIES = [
    name if name == "mlfq" else pytest.param(name, marks=pytest.mark.slow) for name in LIVE_POLICIES
]

FLEETS = [
    name if name == "esp" else pytest.param(name, marks=pytest.mark.slow) for name in FLEET_POLICIES
]


@pytest.mark.parametrize(("tp", "pp"), MESHES)
@pytest.mark.parametrize("policy", POLICIES)
def test_greedy_equals_transformers(oracle: Any, policy: str, tp: int, pp: int) -> None:
    generates_what_transformers_does(oracle, policy, tp, pp)


def test_stages_of_two_ranks_each(
    tmp_path_factory: pytest.TempPathFactory, make_oracle: Any
) -> None:
    oracle = make_oracle(tmp_path_factory.mktemp("m"), "llama")
    generates_what_transformers_does(oracle, "skip-join-mlfq", 2, 2)


def generates_what_transformers_does(oracle: Any, policy: str, tp: int, pp: int) -> None:
    """With room for two of the requests, so that they are preempted and swapped."""
    if oracle.config.n_kv_heads % tp:
        pytest.skip("its heads cannot be shared")
    of_transformers(
        oracle,
        Client(
            oracle.directory,
            policy=policy,
            tp=tp,
            pp=pp,
            max_batch=2,
            max_len=64,
            kv_tokens=64 + 48 * pp,
            prefill_tokens=16,
        ),
    )


def of_transformers(oracle: Any, client: Client) -> None:
    """What an engine gives, but for ties."""

    async def body(client: Client) -> None:
        client.link.submit(requests_of(oracle, len(oracle.outputs[0]), temperature=0.0))
        await client.until(lambda: len(client.finished) == len(oracle.prompts))

    converse(client, body)
    ties = 0
    for number, expected in enumerate(oracle.outputs):
        got = client.outputs[number]
        if got != expected:
            pairs = enumerate(zip(got, expected, strict=True))
            place = next(at for at, (one, other) in pairs if one != other)
            assert oracle.gap(number, place) < 1e-4
            ties += 1
    print(f"divergences at ties: {ties} of {len(oracle.outputs)}; {client.link.load}")
    assert client.link.load.kv_usage == 0


@pytest.mark.parametrize(
    ("instances", "tp"),
    [
        (2, 1),
        pytest.param(4, 1, marks=pytest.mark.slow),
        pytest.param(2, 2, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("policy", FLEETS)
def test_a_fleet_gives_what_transformers_does(
    tmp_path_factory: pytest.TempPathFactory, make_oracle: Any, policy: str, instances: int, tp: int
) -> None:
    """With little room on each instance, so that prompts are cut, spread, dropped and computed
    again."""
    oracle = make_oracle(tmp_path_factory.mktemp("m"), "llama")
    options: dict[str, Any] = {"max_batch": 2, "max_len": 64, "kv_tokens": 72, "prefill_tokens": 16}
    of_transformers(
        oracle, Client(oracle.directory, policy=policy, instances=instances, tp=tp, **options)
    )


def test_a_killed_instance_is_replaced_and_no_token_lost(tiny: Path) -> None:
    requests = [drawn(number, 110) for number in range(6)]

    async def undisturbed(client: Client) -> None:
        client.link.submit(requests)
        await client.until(lambda: len(client.finished) == len(requests))

    async def killed(client: Client) -> None:
        client.link.submit(requests)
        for least in (3, 40):
            await client.until(lambda least=least: len(client.outputs.get(0, ())) > least)  # type: ignore[misc]
            os.kill(instances_of(client)[0], signal.SIGKILL)
        await client.until(lambda: len(client.finished) == len(requests))

    fleet: dict[str, Any] = {"policy": "esp", "instances": 2, "max_batch": 4}
    whole, broken = Client(tiny, max_batch=4), Client(tiny, **fleet)
    converse(whole, undisturbed)
    converse(broken, killed)
    assert broken.link.restarts == 0  # the manager's process goes on
    assert broken.outputs == whole.outputs
    assert broken.link.load.recomputations > 0
    assert broken.link.load.kv_usage == 0


def instances_of(client: Client) -> list[int]:
    """Process ids, the oldest first."""
    assert client.link.pid
    found = psutil.Process(client.link.pid).children()
    return [each.pid for each in sorted(found, key=lambda each: each.create_time())]


@pytest.fixture
def tiny(model_directory: Path) -> Path:
    return model_directory


def drawn(number: int, tokens: int) -> GenerationRequest:
    parameters = SamplingParameters(temperature=1.0, seed=number)
    prompt = tuple(range(1, 9))
    return GenerationRequest(
        number=number, id="", prompt=prompt, max_tokens=tokens, parameters=parameters
    )


def test_a_killed_engine_is_replaced_and_no_token_lost(tiny: Path) -> None:
    requests = [drawn(number, 110) for number in range(6)]

    async def undisturbed(client: Client) -> None:
        client.link.submit(requests)
        await client.until(lambda: len(client.finished) == len(requests))

    async def killed(client: Client) -> None:
        client.link.submit(requests)
        for least in (3, 40):
            await client.until(lambda least=least: len(client.outputs.get(0, ())) > least)  # type: ignore[misc]
            assert client.link.pid
            os.kill(client.link.pid, signal.SIGKILL)
        await client.until(lambda: len(client.finished) == len(requests))

    whole, broken = Client(tiny, max_batch=4), Client(tiny, max_batch=4)
    converse(whole, undisturbed)
    converse(broken, killed)
    assert broken.link.restarts == 2
    assert broken.outputs == whole.outputs
    assert broken.link.load.kv_usage == 0


def test_an_engine_that_hangs_is_replaced(tiny: Path) -> None:
    async def body(client: Client) -> None:
        client.link.submit([drawn(0, 100)])
        await client.until(lambda: len(client.outputs.get(0, ())) > 3)
        assert client.link.pid
        os.kill(client.link.pid, signal.SIGSTOP)
        async with asyncio.timeout(60):
            while client.link.answers:
                await asyncio.sleep(0.05)
        await client.until(lambda: 0 in client.finished)

    client = Client(tiny, patience_s=2.0)
    converse(client, body)
    assert client.link.restarts == 1
    assert len(client.outputs[0]) == 100


def test_engines_that_die_at_once_are_not_started_for_ever(tiny: Path) -> None:
    async def body(client: Client) -> None:
        client.link.submit([drawn(0, 100)])
        async with asyncio.timeout(60):
            while client.link.alive:
                if client.link.pid:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(client.link.pid, signal.SIGKILL)
                await asyncio.sleep(0.02)

    client = Client(tiny)
    converse(client, body)
    assert not client.link.alive


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"tp": 8}, UsageError),
        ({"kv_tokens": 16}, UsageError),
        ({"policy": "replicas", "instances": 2, "kv_tokens": 100}, UsageError),
        ({"profile": "/nowhere.json"}, UsageError),
        ({"profile": "another.json"}, UsageError),
    ],
)
def test_what_cannot_be_served_is_told(
    tiny: Path, options: dict[str, Any], error: type[Exception], tmp_path: Path
) -> None:
    if options.get("profile") == "another.json":
        options = {"profile": str(tmp_path / "another.json")}
        write_profile(profile_of_another_model(), tmp_path / "another.json")
    client = Client(tiny, **options)

    async def body() -> None:
        try:
            await client.link.open(client.take)
        finally:
            await client.link.close()

    with pytest.raises(error):
        asyncio.run(body())


def profile_of_another_model() -> Profile:
    prefills = tuple(PrefillSample(lengths=(n,), seconds=0.01 * n) for n in (1, 2, 4))
    decodes = tuple(DecodeSample(batch=n, context_tokens=9, seconds=0.01) for n in (1, 2, 4))
    one = Configuration(weight_bytes=(1,), prefill=prefills, decode=decodes)
    return Profile(
        model="another",
        device="a CPU",
        origin="measured",
        kv_bytes_per_token=1,
        configurations=(one,),
    )


def test_an_engine_that_ends_before_it_is_ready_is_told(tmp_path: Path, tiny: Path) -> None:
    client = Client(tiny)

    async def body() -> None:
        opening = asyncio.create_task(client.link.open(client.take))
        while client.link.pid is None:
            await asyncio.sleep(0.01)
        os.kill(client.link.pid, signal.SIGKILL)
        await opening

    with pytest.raises(RunFailed):
        asyncio.run(body())
