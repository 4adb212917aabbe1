"""``opsuite profile``: what it writes is what the simulator and the server read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch", reason="needs the engine extra")

from engine.models.config import ModelConfig
from engine.models.huggingface import save_pretrained
from engine.models.initialization import initialize
from engine.models.transformer import Transformer
from engine.profiles.profile import read_profile

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "small"
    directory.mkdir()
    config = ModelConfig(
        vocab_size=320, hidden_size=32, n_layers=2, n_heads=4, n_kv_heads=2, intermediate_size=48
    )
    network = Transformer(config)
    initialize(network, seed=0)
    save_pretrained(directory, config, dict(network.named_parameters()), None)
    return directory


def opsuite(home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "opsuite.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OPSUITE_HOME": str(home), "OPSUITE_COLLECT": "0"},
    )


@pytest.mark.slow
@pytest.mark.alone
def test_a_group_is_measured_and_its_profile_simulated(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.json"
    small = ("--threads", 1, "--rounds", 1, "--max-len", 64, "--max-batch", 4, "--device", "cpu")
    result = opsuite(tmp_path, "profile", model, "--tp", "1,2", *small, "--out", out, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == json.loads(out.read_text())
    assert "tp 2, 1 instance(s): the fit's largest errors are" in result.stderr
    profile = read_profile(out)
    assert (profile.model, profile.origin) == ("small", "measured")
    assert profile.kv_bytes_per_token == 2 * 2 * 16 * 4  # K and V, layers, 2 heads of 8, float32
    alone, shared = profile.find(op=1), profile.find(op=2)
    assert alone.weight_bytes[0] // 2 <= shared.weight_bytes[0] < alone.weight_bytes[0]
    assert [each.lengths for each in alone.prefill] == [each.lengths for each in shared.prefill]
    assert max(each.lengths[0] for each in alone.prefill) == 63
    assert max(each.batch for each in alone.decode) == 4
    simulated = opsuite(
        *(tmp_path, "simulate", "serve", "--trace", "alpaca-like@4", "--requests", 20),
        *("--policy", "skip-join-mlfq", "--costs", out, "--tp", 2, "--json"),
    )
    assert simulated.returncode == 0, simulated.stderr
    assert json.loads(simulated.stdout)["set_up"]["kv_bytes_per_token"] == 256


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--tp", "two"), "no list of numbers"),
        (("--tp", "1,9"), "no list of numbers"),
        (("--tp", "3"), "cannot share a model"),
        (("--out", "{home}/none/profile.json"), "no such directory"),
    ],
)
def test_what_cannot_be_profiled(
    model: Path, tmp_path: Path, arguments: tuple[str, str], says: str
) -> None:
    told = [each.format(home=tmp_path) for each in arguments]
    result = opsuite(tmp_path, "profile", model, "--device", "cpu", *told)
    assert result.returncode in {1, 2}, result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.alone
def test_instances_are_measured_together_and_simulated(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "fleet.json"
    small = ("--threads", 1, "--rounds", 1, "--max-len", 64, "--max-batch", 4, "--device", "cpu")
    result = opsuite(tmp_path, "profile", model, "--instances", 2, *small, "--out", out)
    assert result.returncode == 0, result.stderr
    profile = read_profile(out)
    assert [each.sp for each in profile.configurations] == [1, 2]
    assert all(each.prefill and each.decode for each in profile.configurations)
    simulated = opsuite(
        tmp_path,
        *("simulate", "serve", "--trace", "alpaca-like@20", "--requests", 50, "--costs", out),
        *("--instances", 2, "--kv-tokens", 4000, "--policy", "esp,replicas", "--json"),
    )
    assert simulated.returncode == 0, simulated.stderr
    assert json.loads(simulated.stdout)
