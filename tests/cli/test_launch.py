"""``opsuite launch`` as a user meets it: what it prints, where, and how it exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

OPSUITE = [sys.executable, "-P", "-m", "opsuite.cli.main"]

TINY = """
name = "tiny"
model = {vocab_size = 300, hidden_size = 32, n_layers = 1, n_heads = 2, n_kv_heads = 2, \
intermediate_size = 32, max_seq_len = 32}
data = {seq_len = 32}
train = {steps = 12, batch_size = 2}
parallel = {device = "cpu"}
"""


def launch(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*OPSUITE, "launch", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OPSUITE_HOME": str(home), "OPSUITE_DEBUG": "0"},
        timeout=100,
        check=False,
    )


def test_a_dry_run_tells_every_value_and_its_source(tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text("[parallel]\ntp = 2\n[train]\nsteps = 30\n", encoding="utf-8")
    arguments = [str(config), "--set", "train.steps=40", "--nproc", "4", "--dry-run"]
    printed = launch(tmp_path, *arguments)
    assert printed.returncode == 0
    parsed = tomllib.loads(printed.stdout)
    assert (parsed["train"]["steps"], parsed["parallel"]["dp"]) == (40, 2)
    assert "steps = 40  # --set" in printed.stdout
    assert f"tp = 2  # {config}" in printed.stdout
    assert "dp = 2  # --nproc" in printed.stdout
    assert "lr = 0.001  # default" in printed.stdout
    data = json.loads(launch(tmp_path, *arguments, "--json").stdout)
    assert data["config"] == parsed
    assert data["sources"]["train.steps"] == "--set"
    assert not (tmp_path / "runs").exists()


def test_the_example_documents_every_section(tmp_path: Path) -> None:
    example = launch(tmp_path, "--example").stdout
    sections = {"model", "data", "train", "optimizer", "parallel", "checkpoint"}
    assert sections <= set(tomllib.loads(example))
    assert "# optimiser steps\nsteps = " in example


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere.toml"], 2, "nowhere.toml"),
        (["--set", "train.stepz=3"], 2, "did you mean train.steps"),
        (["--set", "train.steps=0"], 2, "train.steps"),
        (["--nproc", "3", "--set", "parallel.tp=2"], 2, "--nproc"),
        (["--fault", "earthquake:rank=1"], 2, "slow-rank"),
        (["--fault", "slow-rank:rank=9,steps=1-2"], 2, "rank 9 does not exist"),
        (["--data", "nowhere.txt"], 2, "nowhere.txt"),
        (["--resume", "nothing"], 3, "nothing"),
        (["--resume", ""], 3, "no training run"),
        (["--dry-run", "--fault", "slow-rank:rank=9,steps=1-2"], 2, "rank 9 does not exist"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(
    arguments: list[str], code: int, words: str, tmp_path: Path
) -> None:
    if "--data" in arguments:
        pytest.importorskip("torch", reason="needs the engine extra")
    result = launch(tmp_path, *arguments)
    assert result.returncode == code
    assert result.stderr.startswith("error: ")
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "runs").exists()


def test_malformed_toml_is_told_with_its_line(tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text("[train]\nsteps = = 3\n", encoding="utf-8")
    result = launch(tmp_path, str(config))
    assert result.returncode == 2
    assert str(config) in result.stderr
    assert "line 2" in result.stderr


def test_a_run_and_its_continuation(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the engine extra")
    config, text = tmp_path / "run.toml", tmp_path / "text.txt"
    config.write_text(TINY, encoding="utf-8")
    text.write_text("def word(): return other\n" * 300, encoding="utf-8")
    first = launch(tmp_path, str(config), "--data", str(text), "--json")
    assert first.returncode == 0, first.stderr
    document = json.loads(first.stdout)
    assert (document["status"], document["steps"]) == ("finished", 12)
    assert f"next: opsuite diagnose {document['run_id']}" in first.stderr
    assert "step 12/12" in first.stderr
    assert "Warning" not in first.stderr

    done = launch(tmp_path, "--resume", "last")
    assert done.returncode == 2
    assert "nothing is left to do" in done.stderr

    more = launch(tmp_path, "--resume", "last", "--set", "train.steps=15", "--json")
    assert more.returncode == 0, more.stderr
    again = json.loads(more.stdout)
    assert (again["run_id"], again["steps"]) == (document["run_id"], 15)
    assert "resuming after step 12" in more.stderr
    assert "the learning rate was to fall until step 12" in more.stderr


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds ranks through /proc")
def test_ranks_do_not_outlive_a_killed_launcher(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the engine extra")
    text = tmp_path / "text.txt"
    text.write_text("def word(): return other\n" * 300, encoding="utf-8")
    config = tmp_path / "run.toml"
    config.write_text(TINY, encoding="utf-8")
    endless = ["--set", "train.steps=100000", "--set", "checkpoint.every=5"]
    launcher = subprocess.Popen(
        [*OPSUITE, "launch", str(config), "--data", str(text), *endless],
        env={**os.environ, "OPSUITE_HOME": str(tmp_path)},
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: bool(list(tmp_path.glob("runs/*/checkpoints/step-*"))), 60)
        assert ranks_of(tmp_path)
    finally:
        launcher.kill()
        launcher.wait(10)
    wait_until(lambda: not ranks_of(tmp_path), 10)


def ranks_of(home: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended while we looked
            words = path.read_bytes().split(b"\0")
            if b"engine.training.worker" in words and any(
                str(home).encode() in word for word in words
            ):
                found.append(int(path.parent.name))
    return found


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)
