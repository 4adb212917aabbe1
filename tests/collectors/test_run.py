"""A run's directory: made whole or not at all, found again, read with care."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from collectors.errors import DataError, StorageError, Unreachable, UsageError
from collectors.redaction import is_secret, redact_command
from collectors.run import RunDirectory, list_runs

if TYPE_CHECKING:
    from pathlib import Path


def create(home: Path, name: str = "test", **changes: Any) -> RunDirectory:
    fields: dict[str, Any] = {
        "kind": "training",
        "command": ["opsuite", "launch"],
        "config": {},
        "world_size": 1,
    }
    return RunDirectory.create(home, name=name, **(fields | changes))


def test_a_run_is_found_by_its_id_a_beginning_and_last(home: Path) -> None:
    first, second = create(home, "First One!"), create(home, "second")
    assert first.run_id.startswith("first-one-20")
    assert [run.run_id for run in list_runs(home)] == [second.run_id, first.run_id]
    for reference in (second.run_id, "seco", "last"):
        found = RunDirectory.open(home, reference)
        assert (found.path, found.manifest) == (second.path, second.manifest)
    assert second.manifest.status == "running"
    assert second.manifest.pid == os.getpid()


def test_runs_of_one_second_that_draw_the_same_id_do_not_meet(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = iter(["5f32", "5f32", "5f32", "0a1b"])
    monkeypatch.setattr("collectors.run.secrets.token_hex", lambda _: next(draws))
    monkeypatch.setattr("collectors.run.time.strftime", lambda *_: "20261123-232537")
    ids = [create(home).run_id for _ in range(2)]
    assert ids == ["test-20261123-232537-5f32", "test-20261123-232537-0a1b"]


def test_how_it_ended_is_kept(home: Path) -> None:
    create(home).finish("interrupted", 130)
    manifest = RunDirectory.open(home, "last").manifest
    assert (manifest.status, manifest.exit_code) == ("interrupted", 130)
    assert manifest.ended_ns is not None
    assert manifest.ended_ns >= manifest.started_ns


def test_what_is_not_there_is_unreachable_and_says_what_is(home: Path) -> None:
    with pytest.raises(Unreachable) as nothing:
        RunDirectory.open(home, "last")
    assert "opsuite launch" in nothing.value.remedy
    run = create(home)
    for reference in ("nope", "../runs", "", "."):
        with pytest.raises(Unreachable) as error:
            RunDirectory.open(home, reference)
        assert run.run_id in error.value.remedy


def test_a_beginning_of_several_is_refused(home: Path) -> None:
    runs = [create(home), create(home)]
    with pytest.raises(UsageError, match="2 runs") as error:
        RunDirectory.open(home, "test")
    assert all(run.run_id in error.value.remedy for run in runs)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{}",
        b'{"run_id": 3}',
        b"[" * 100_000,
        "pid",
        "run_id",
        None,
    ],
)
def test_a_hostile_manifest_is_named_and_does_not_hide_the_others(
    home: Path, caplog: pytest.LogCaptureFixture, content: bytes | str | None
) -> None:
    good, bad = create(home, "good"), create(home, "bad")
    path = bad.path / "run.json"
    if isinstance(content, str):  # a field of the wrong type, or not this run's
        content = json.dumps(json.loads(path.read_text()) | {content: "another"}).encode()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        RunDirectory.open(home, bad.run_id)
    assert error.value.where == str(path)
    assert [run.run_id for run in list_runs(home)] == [good.run_id]
    assert str(path) in caplog.text
    assert RunDirectory.open(home, "last").run_id == good.run_id


def test_a_full_disk_leaves_nothing_behind(home: Path) -> None:
    """The kernel refuses every byte of every file of this process."""
    script = """
import resource, sys
from pathlib import Path
from collectors.errors import StorageError
from collectors.run import RunDirectory

resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
try:
    RunDirectory.create(
        Path(sys.argv[1]), name="x", kind="training", command=[], config={}, world_size=1
    )
except StorageError as error:
    print(error)
"""
    said = subprocess.run(
        [sys.executable, "-c", script, str(home)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert "no space left" in said
    assert list((home / "runs").iterdir()) == []


def test_a_home_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="making the run directory"):
        create(tmp_path / "file")


def test_secrets_are_not_stored(home: Path) -> None:
    run = create(
        home,
        command=["opsuite", "serve", "--api-key", "s3cret", "--set", "hub.token=s3cret"],
        config={
            "serve": {"api_key": "s3cret", "port": 80, "max_tokens": 5},
            "db_password": "s3cret",
            "stores": [{"secret": "s3cret"}, "https://me:s3cret@host/x"],
            "tokenizer": "bpe",
        },
    )
    for path in (run.path / "run.json", run.path / "config.toml"):
        text = path.read_text()
        assert "s3cret" not in text
        assert "***" in text
    stored = tomllib.loads((run.path / "config.toml").read_text())
    assert stored["serve"] == {"api_key": "***", "port": 80, "max_tokens": 5}
    assert stored["tokenizer"] == "bpe"


def test_what_is_secret_by_its_name() -> None:
    secret = [
        "api_key",
        "HF_TOKEN",
        "apiKey",
        "--api-key",
        "aws.secret_access_key",
        "passwd",
        "key",
    ]
    open_ = ["max_tokens", "tokenizer", "key_heads", "keyboard", "n_kv_heads", "tokens", "monkey"]
    assert [name for name in [*secret, *open_] if is_secret(name)] == secret
    assert redact_command(["--api-key=x", "run", "A_TOKEN=y", "--key", "z", "k=v"]) == [
        "--api-key=***",
        "run",
        "A_TOKEN=***",
        "--key",
        "***",
        "k=v",
    ]


def test_the_commit_of_the_directory_is_noted(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert create(home).manifest.git_commit is None
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    commit = create(home).manifest.git_commit
    assert commit is not None
    assert len(commit) == 40
    monkeypatch.setenv("PATH", str(tmp_path))
    assert create(home).manifest.git_commit is None


def test_last_of_a_kind_passes_over_the_others(home: Path) -> None:
    trained = create(home)
    served = RunDirectory.create(
        home, name="server", kind="serving", command=[], config={}, world_size=1
    )
    assert RunDirectory.open(home, "last").run_id == served.run_id
    assert RunDirectory.open(home, "last", kind="training").run_id == trained.run_id
    with pytest.raises(UsageError, match="serving run"):
        RunDirectory.open(home, served.run_id, kind="training")
