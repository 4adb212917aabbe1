"""``opsuite simulate serve``: what it prints, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[3] / "shared"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="no shared data beside the checkout")
MEASURED = {
    "decoding_large_small_bs_threshold": 95,
    "prefill": [18.1, 0.102, 7e-6],
    "decoding_smallbs": [19.9, 6e-4, 0.0385],
    "decoding_largebs": [7.2, 6e-4, 0.158],
}


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "opsuite.cli.main", "simulate", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def costs(tmp_path: Path) -> str:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"some/opt-13b": {"1": MEASURED, "2": MEASURED}}))
    return str(path)


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "trace.jsonl"
    lines = [
        {"arrival_time_ns": index * 400_000_000, "input_toks": 100, "output_toks": 20}
        for index in range(20)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_policies_side_by_side_as_json(costs: str) -> None:
    named = ("--trace", "alpaca-like@4", "--requests", "200", "--seed", "1")
    compared = ("--policy", "fcfs,skip-join-mlfq", "--costs", costs, "--max-batch", "8")
    result = simulate(*named, *compared, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["set_up"]["max_batch"] == 8
    assert found["set_up"]["model"] == "some/opt-13b"
    assert found["set_up"]["kv_bytes_per_token"] == 819_200
    assert found["workload"]["requests"] == 200
    assert found["workload"]["rate_per_s"] == pytest.approx(4, rel=0.3)
    assert found["capacity_per_s"] is None
    fcfs, skip_join = found["policies"]
    assert (fcfs["policy"], skip_join["policy"]) == ("fcfs", "skip-join-mlfq")
    for policy in (fcfs, skip_join):
        assert policy["unfinished"] == 0
        for part in ("all", "short", "long"):
            for what in ("jct", "ttft", "tpot", "jct_per_token"):
                times = policy[part][what]
                assert 0 < times["p50"] <= times["p95"] <= times["p99"]
                assert times["mean"] > 0
    assert "skip-join-mlfq ..." in result.stderr
    assert simulate(*named, *compared, "--json").stdout == result.stdout


def test_a_file_keeps_its_times_and_a_load_scales_them(costs: str, trace: str) -> None:
    own = simulate("--trace", trace, "--policy", "fcfs", "--costs", costs, "--json")
    assert own.returncode == 0, own.stderr
    found = json.loads(own.stdout)
    assert found["workload"]["span_s"] == pytest.approx(7.6)
    assert found["load"] is None
    loaded = simulate(
        "--trace", trace, "--load", "0.5", "--policy", "fcfs", "--costs", costs, "--json"
    )
    assert loaded.returncode == 0, loaded.stderr
    found = json.loads(loaded.stdout)
    assert found["load"] == pytest.approx(0.5)
    assert found["workload"]["rate_per_s"] == pytest.approx(found["capacity_per_s"] / 2)


def test_tables_for_people_say_the_set_up(costs: str, trace: str) -> None:
    result = simulate("--trace", trace, "--policy", "fcfs,orca", "--costs", costs, "--tp", "2")
    assert result.returncode == 0, result.stderr
    assert "some/opt-13b, tp 2; costs: costs.json" in result.stdout
    assert "batch cap 16, KV 14,000 tokens, host 128 GB" in result.stdout
    assert "20 requests" in result.stdout
    assert "JCT a token" in result.stdout
    assert "orca" in result.stdout


def test_requests_that_do_not_fit_are_told(costs: str) -> None:
    result = simulate(
        *("--trace", "leval-like@0.1", "--requests", "60", "--costs", costs, "--policy", "fcfs")
    )
    assert result.returncode == 0, result.stderr
    assert "too long for --kv-tokens and left out" in result.stderr


@needs_shared
def test_the_set_up_of_the_paper_is_the_default() -> None:
    result = simulate("--trace", "azure-code@2", "--requests", "100", "--policy", "fcfs", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["set_up"] == {
        "model": "facebook/opt-13b",
        "tp": 1,
        "costs": "distserve_profiler-a100-80g.distserve.json",
        "max_batch": 16,
        "kv_tokens": 14_000,
        "kv_bytes_per_token": 819_200,
        "swap_bytes": 128 * 10**9,
        "link_bytes_per_s": 25e9,
        "make_room": None,
        "drain": 0.1,
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--trace", "sharegpt-like@2", "--policy", "fcfs,best"), ("best", "skip-join-mlfq")),
        (("--trace", "sharegpt-like@2", "--policy", ","), ("names no policy",)),
        (("--trace", "sharegpt@2"), ("sharegpt", "alpaca-like", "mooncake")),
        (("--trace", "sharegpt-like"), ("has no rate", "sharegpt-like@2")),
        (("--trace", "sharegpt-like@x"), ("is no rate",)),
        (("--trace", "sharegpt-like@2", "--load", "0.5"), ("a rate and a load",)),
        (("--trace", "none.jsonl"), ("none.jsonl", "cannot be read")),
        (("--trace", "sharegpt-like@2", "--model", "x"), ("no model x", "some/opt-13b")),
        (("--trace", "sharegpt-like@2", "--tp", "4"), ("no tp 4", "1 or 2")),
        (("--trace", "lveval-like@2", "--requests", "5"), ("no request", "--kv-tokens")),
        (
            ("--trace", "sharegpt-like@2", "--policy", "orca", "--kv-tokens", "2000"),
            ("too small to reserve", "--kv-tokens"),
        ),
    ],
)
def test_what_cannot_be_simulated_is_a_usage_error(
    costs: str, arguments: tuple[str, ...], says: tuple[str, ...]
) -> None:
    result = simulate("--costs", costs, *arguments)
    assert result.returncode == 2
    assert all(each in result.stderr for each in says), result.stderr
    assert "do:" in result.stderr
    assert result.stdout == ""


def test_a_bad_file_says_where(costs: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"timestamp": 0, "input_length": 1, "output_length": 1}\n{"timestamp": 1}\n')
    result = simulate("--trace", str(bad), "--costs", costs)
    assert result.returncode == 1
    assert f"{bad}, line 2" in result.stderr
    bad_costs = tmp_path / "bad.json"
    bad_costs.write_text('{"m": {"1": {}}}')
    result = simulate("--trace", "alpaca-like@2", "--costs", str(bad_costs))
    assert result.returncode == 1
    assert str(bad_costs) in result.stderr
