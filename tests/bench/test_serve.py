"""The benchmark of live serving: its loads, its figures, its double, and a server of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from opsuite.bench.options import BenchOptions

pytest.importorskip("torch", reason="needs the engine extra")

from collectors.configuration import resolve
from collectors.errors import UsageError
from engine.models.config import ModelConfig
from engine.profiles.latency import Latency, latency_of
from engine.serving.config import ServingConfig
from engine.simulation.serve.counterpart import Counterpart
from engine.simulation.serve.metrics import by_prompt
from engine.simulation.serve.request import Request, Workload
from opsuite.bench.serve import measure
from opsuite.bench.serving.agreement import Pair, at_speed, disagreements, shortened
from opsuite.bench.serving.burst import LONG, burst
from opsuite.bench.serving.live import server_of
from opsuite.bench.serving.measured import measured
from opsuite.bench.serving.model import make_model
from opsuite.serving_load.answer import Answer
from opsuite.serving_load.open_loop import Replay

if TYPE_CHECKING:
    from pathlib import Path

LATENCY = latency_of((4e-3, 8e-5, 2e-8), (2e-3, 5e-7, 7e-4))
SHAPE = ModelConfig(
    vocab_size=512,
    hidden_size=256,
    n_layers=4,
    n_heads=8,
    n_kv_heads=4,
    intermediate_size=688,
    max_seq_len=1024,
)


def double(policy: str, latency: Latency = LATENCY) -> Counterpart:
    given = {"policy": policy, "max_batch": 4, "device": "cpu"}
    return Counterpart(resolve(ServingConfig, [("test", given)]).value, SHAPE, latency)


def mean_jct(server: Counterpart, workload: Workload, part: str = "all") -> float:
    outcome = server.serve(workload, LATENCY)
    times = getattr(by_prompt(outcome.lives, outcome.end_s), part)
    return float(times.jct.mean)


def test_the_burst_is_one_that_preempting_helps_and_that_costs_the_long_little() -> None:
    workload = burst()
    longest = sorted(request.prompt_tokens for request in workload.requests)[-LONG:]
    assert len(workload.requests) // 10 == LONG  # what metrics call long
    assert longest == [128] * LONG
    fcfs, skipping = double("fcfs"), double("skip-join-mlfq")
    assert mean_jct(skipping, workload) < mean_jct(fcfs, workload) / 2
    assert mean_jct(skipping, workload, "long") < 1.5 * mean_jct(fcfs, workload, "long")


def test_a_double_keeps_what_its_policy_has_learnt_and_each_workload_its_own_clock() -> None:
    server, again = double("adaptive"), double("fcfs")
    first = mean_jct(server, burst())
    for seed in range(3):
        server.serve(shortened("heavy-tailed", 200, seed).scaled(8), LATENCY)
    assert mean_jct(server, burst()) < 0.7 * first
    assert mean_jct(again, burst()) == pytest.approx(mean_jct(again, burst()))


def test_a_slow_machine_is_told_from_a_simulator_that_is_wrong() -> None:
    workload = shortened("sharegpt-like", 80, 0).scaled(6)
    slow = double("fcfs").serve(workload, LATENCY.scaled(1.5))
    factor, found = at_speed(double("fcfs"), workload, LATENCY, slow.busy_s)
    assert factor == pytest.approx(1.5, rel=0.03)
    assert [life.last_s for life in found.lives] == pytest.approx(
        [life.last_s for life in slow.lives], rel=0.1
    )


def test_policies_are_ordered_alike_unless_both_sides_contradict() -> None:
    def pairs(**means: tuple[float, float]) -> dict[str, list[Pair]]:
        return {
            name: [Pair(live=a, simulated=b, at_speed=b, slower=1.0)]
            for name, (a, b) in means.items()
        }

    assert not disagreements(pairs(a=(1.0, 2.0), b=(2.0, 4.0), c=(3.0, 9.0)))
    assert disagreements(pairs(a=(1.0, 2.0), b=(2.0, 1.0))) == ["a and b"]
    assert not disagreements(pairs(a=(1.0, 2.0), b=(1.04, 1.0)))  # live, a tie


def test_figures_of_a_replay_are_those_of_a_simulation() -> None:
    def answer(sent_s: float, *token_s: float, tokens: int, problem: str = "") -> Answer:
        return Answer(
            sent_s=sent_s, token_s=token_s, prompt_tokens=5, tokens=tokens, problem=problem
        )

    workload = Workload(
        name="two",
        requests=tuple(Request(arrival_s=at, prompt_tokens=5, output_tokens=3) for at in (0, 1)),
    )
    answers = (
        answer(0.1, 0.5, 1.0, 2.5, tokens=3),
        answer(1.0, 3.0, tokens=0, problem="it did not end in time"),
    )
    found = measured(workload, Replay(answers=answers, end_s=10.0, client_cpu_s=1.0))
    times = found.times.all
    assert times.jct is not None
    assert times.ttft is not None
    assert times.jct.mean == pytest.approx((2.5 + 9.0) / 2)  # since its time to be sent, to the end
    assert times.ttft.mean == pytest.approx((0.5 + 2.0) / 2)
    assert (found.failed, found.requests, found.client_busy) == (1, 2, 0.1)
    assert found.problem == "it did not end in time"
    assert found.late_s == pytest.approx(0.099)


def test_what_to_send_must_be_said() -> None:
    with pytest.raises(UsageError, match="what is to be sent"):
        measure(1, BenchOptions(url="http://127.0.0.1:9"))


@pytest.mark.alone
def test_a_trace_on_a_live_server(home: Path, tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    lines = [
        f'{{"timestamp": {60 * number}, "input_length": {8 + number}, "output_length": 5}}'
        for number in range(20)
    ]
    trace = tmp_path / "trace.jsonl"
    trace.write_text("\n".join([*lines, lines[0].replace("8,", "3000,")]))
    with server_of("fcfs", str(tmp_path / "model"), ("--threads", "1")) as server:
        found = server.measure(
            Workload(
                name="one", requests=(Request(arrival_s=0.2, prompt_tokens=9, output_tokens=6),)
            ),
            seed=0,
        )
        rows = measure(2, BenchOptions(url=server.url, trace=str(trace)))
    assert (found.failed, found.problem) == (0, "")
    by_name = {row.name.removeprefix(f"{server.url}: "): row for row in rows}
    failed = by_name["requests that failed"]
    assert (failed.value, failed.unit) == (0, "of 40")  # the one that is too long is left out
    assert by_name["JCT P99"].rounds == 2
    first, whole = by_name["TTFT P50"].value, by_name["JCT P50"].value
    assert first is not None
    assert whole is not None
    assert 0 < first < whole
    assert {"TPOT mean, long prompts", "JCT a token P95, short prompts"} <= by_name.keys()
