"""``opsuite export``: Prometheus scrapes it, OpenTelemetry gets it, and errors are one message."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from collectors.clock import host_name
from collectors.recorder import Identity, open_recorder
from collectors.run import RunDirectory
from opsuite.cli.export import export
from opsuite.cli.main import Commands

if TYPE_CHECKING:
    from pathlib import Path

app = typer.Typer(cls=Commands)
app.callback()(lambda: None)
app.add_typer(export, name="export")

SCRIPT = (
    "import typer; from opsuite.cli.main import Commands; from opsuite.cli.export import export\n"
    "app = typer.Typer(cls=Commands); app.callback()(lambda: None)\n"
    "app.add_typer(export, name='export'); app()"
)


@pytest.fixture
def run(home: Path) -> RunDirectory:
    """A serving run that has ended, with one request."""
    run = RunDirectory.create(home, name="m", kind="serving", command=[], config={}, world_size=1)
    identity = Identity(
        run_id=run.run_id, role="server", rank=0, world_size=1, host=host_name(), coordinates={}
    )
    recorder = open_recorder(run.spool, identity)
    recorder.event("request.arrived", subject=0, attributes={"id": "a", "prompt_tokens": 3})
    recorder.event("request.finished", subject=0, value=2, attributes={"reason": "stop"})
    recorder.close()
    run.finish("finished", 0)
    return run


def run_it(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["export", *arguments])


def test_prometheus_scrapes_it_until_it_is_stopped(run: RunDirectory) -> None:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT, "export", "prometheus", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "OPSUITE_API_KEY"},
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            page = answer.read().decode()
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    assert f'opsuite_run_info{{kind="serving",name="m",run="{run.run_id}"' in page
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["prometheus", "--host", "0.0.0.0", "--port", "0"], 2, "no API key"),
        (["prometheus", "--run", "no-such", "--port", "0"], 3, "no run"),
        (["prometheus", "--host", "203.0.113.1"], 2, "cannot listen"),
        (["otlp", "no-such"], 3, "no serving run"),
        (["otlp", "last", "--endpoint", "file:///x"], 2, "no address"),
        (["otlp", "last", "--endpoint", "http://127.0.0.1:1"], 3, "0 requests were sent"),
    ],
)
def test_what_cannot_be_exported(
    run: RunDirectory,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    told: str,
) -> None:
    if arguments[0] == "otlp":
        pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the otlp extra")
        monkeypatch.setattr("collectors.exporters.otlp._TIMEOUT_S", 0.5)
    monkeypatch.delenv("OPSUITE_API_KEY", raising=False)
    result = run_it(*arguments)
    assert result.exit_code == code, result.output
    assert told in result.stderr


def test_a_scraped_run_has_no_requests(home: Path) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the otlp extra")
    RunDirectory.create(
        home, name="m", kind="serving", command=[], config={"source": "vllm"}, world_size=1
    )
    result = run_it("otlp", "last")
    assert result.exit_code == 2
    assert "no single requests" in result.stderr
