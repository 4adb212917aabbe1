"""``opsuite serve`` given something that cannot be served: one message, exit code 2 or 1."""

from __future__ import annotations

import hashlib
import json
import socket
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

pytest.importorskip("torch", reason="needs the engine extra")

from collectors.run import RunDirectory
from opsuite.cli.main import Commands
from opsuite.cli.serve import serve
from opsuite.model_reference import resolve_model

if TYPE_CHECKING:
    from pathlib import Path

app = typer.Typer(cls=Commands)
app.callback()(lambda: None)
app.command()(serve)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPSUITE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("OPSUITE_API_KEY", raising=False)
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["./missing"], "no such model directory"),
        (["{empty}"], "no config.json"),
        (["{file}"], "no such model directory"),
        (["no-such-run"], "neither a directory nor a run"),
        (["{empty}", "--port", "70000"], "port"),
        (["{empty}", "--max-batch", "0"], "max_batch"),
        (["{empty}", "--max-len", "1"], "max_len"),
        (["{empty}", "--device", "tpu"], "device"),
        (["{empty}", "--host", "no such host"], "cannot resolve"),
        (["{empty}", "--host", "0.0.0.0", "--port", "0"], "no API key"),
        (["{empty}", "--host", "203.0.113.1"], "cannot listen"),
        (["{empty}", "--api-key-file", "{empty}/none"], "cannot be read"),
        (["{empty}", "--api-key-file", "{file}"], "no usable API key"),
    ],
)
def test_what_cannot_be_served(
    home: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("\n")
    names = {"empty": str(tmp_path / "empty"), "file": str(tmp_path / "file")}
    result = CliRunner().invoke(app, ["serve", *(a.format(**names) for a in arguments)])
    assert result.exit_code == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not home.exists(), "nothing half-written is left"


def test_a_port_in_use_is_told_before_the_model_is_read(home: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(app, ["serve", str(tmp_path), "--port", port])
    assert result.exit_code == 2
    assert f"port {port} is in use" in result.stderr


def test_a_run_stands_for_its_newest_whole_checkpoint(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory.create(
        home, name="small", kind="training", command=[], config={}, world_size=1
    )
    for reference in ("last", run.run_id, str(run.path)):
        result = CliRunner().invoke(app, ["serve", reference])
        assert result.exit_code == 1
        assert "no checkpoint yet" in result.stderr
    for step in (90, 100, 110):
        checkpoint = run.checkpoints / f"step-{step:06d}"
        checkpoint.mkdir()
        facts: dict[str, object] = {
            "format": 2,
            "step": step,
            "samples": 0,
            "corpus": "c",
            "files": {"config.json": {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}},
        }
        (checkpoint / "config.json").write_bytes(b"{}")
        (checkpoint / "trainer.json").write_text(json.dumps(facts))
    damaged = run.checkpoints / "step-000110" / "trainer.json"
    damaged.write_text("{")
    (run.path / "model").mkdir()
    (run.path / "model" / "checkpoint.txt").write_text("step-000100")  # its export is there
    found = resolve_model(home, "last")
    assert found.directory == run.path / "model"
    assert found.name == "small"
    assert "skipped a damaged checkpoint" in capsys.readouterr().err
