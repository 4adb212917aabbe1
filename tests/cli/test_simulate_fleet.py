"""``opsuite simulate serve`` with policies of fleets: what it prints, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from engine.profiles.latency import latency_of
from engine.profiles.profile import (
    Configuration,
    DecodeSample,
    PrefillSample,
    Profile,
    write_profile,
)

if TYPE_CHECKING:
    from pathlib import Path

ALL = "esp,replicas,static-sp,tp,chunked,chunked-short-first,disaggregated"
FEW = ("--trace", "leval-like@1", "--requests", "20", "--seed", "1")


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "opsuite.cli.main", "simulate", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def profile(path: Path) -> str:
    """One device alone, and two instances of one, twice as quick."""
    found = []
    one = latency_of((1e-2, 1e-4, 1e-8), (1e-2, 1e-6, 1e-4))
    for sp, latency in ((1, one), (2, one.scaled(1 / 2))):
        prefills = [((n,), latency.prefill_s(n)) for n in (100, 1_000, 10_000)]
        decodes = [(b, c, latency.decode_s(b, c)) for b, c in ((1, 100), (8, 9_000), (2, 9_000))]
        found.append(
            Configuration(
                sp=sp,
                weight_bytes=(1,),
                prefill=tuple(PrefillSample(lengths=n, seconds=s) for n, s in prefills),
                decode=tuple(
                    DecodeSample(batch=b, context_tokens=c, seconds=s) for b, c, s in decodes
                ),
            )
        )
    write_profile(
        Profile(
            model="tiny",
            device="threads",
            origin="estimated",
            kv_bytes_per_token=64,
            configurations=tuple(found),
        ),
        path,
    )
    return str(path)


def test_the_set_up_of_the_paper_is_the_default_and_all_are_compared() -> None:
    result = simulate(*FEW, "--policy", ALL, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    set_up = found["set_up"]
    assert (set_up["instances"], set_up["tp"], set_up["kv_tokens"]) == (4, 2, 210_000)
    assert set_up["max_batch"] is None
    assert set_up["measured_dop"] == [4]
    assert [each["policy"] for each in found["policies"]] == ALL.split(",")
    for each in found["policies"]:
        assert each["unfinished"] == 0
        assert each["normalised_latency"] > 0.5
        assert each["slowdown_p90"] > 0.5
        assert each["all"]["jct"]["mean"] > 0
    assert "SP4TP2, 512 x 1,000 tokens: prefill +" in result.stderr
    assert "not measured but extrapolated: 1, 2, 3 instances of tp 2" in result.stderr


def test_who_cannot_serve_it_is_left_out_and_told() -> None:
    given = ("--trace", "lveval-like@0.1", "--requests", "20")
    result = simulate(*given, "--policy", "tp,replicas")
    assert result.returncode == 0, result.stderr
    assert "4 instances of tp 2" in result.stdout
    assert "left out: replicas cannot serve a request of" in result.stdout
    alone = simulate(*given, "--policy", "replicas")
    assert alone.returncode == 2
    assert "--kv-tokens" in alone.stderr


def test_a_profile_gives_another_fleet(tmp_path: Path) -> None:
    costs = profile(tmp_path / "profile.json")
    given = ("--trace", "alpaca-like@2", "--requests", "30", "--costs", costs)
    fleet = ("--instances", "2", "--tp", "1", "--max-batch", "4", "--kv-tokens", "4000")
    result = simulate(*given, *fleet, "--policy", "esp,replicas,static-sp,tp", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["set_up"]["model"] == "tiny"
    assert found["set_up"]["max_batch"] == 4
    assert [each["policy"] for each in found["policies"]] == ["esp", "replicas", "static-sp"]
    assert "no op=2" in found["left_out"]["tp"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--policy", "tp,fcfs"), ("no policy of fleets is named fcfs", "static-sp")),
        (("--policy", "tp", "--load", "0.5"), ("--load", "a fleet has no")),
        (("--policy", "chunked", "--instances", "4", "--model", "x"), ("--model",)),
        (("--policy", "tp", "--costs", "none.json"), ("none.json", "cannot be read")),
    ],
)
def test_what_fleets_do_not_have_is_a_usage_error(
    arguments: tuple[str, ...], says: tuple[str, ...]
) -> None:
    result = simulate(*FEW, *arguments)
    assert result.returncode == 2
    assert all(each in result.stderr for each in says), result.stderr
    assert "do:" in result.stderr
    assert result.stdout == ""
