"""``opsuite watch URL``: a server becomes a run, also if it goes and comes; errors are told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from collectors.query.direct import Store
from collectors.run import RunDirectory
from opsuite.cli.main import Commands
from opsuite.cli.watch import watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

app = typer.Typer(cls=Commands)
app.callback()(lambda: None)
app.command()(watch)

TEXT = (
    'vllm:num_requests_running{{model_name="org/m"}} 1\n'
    'vllm:generation_tokens_total{{model_name="org/m"}} {}\n'
)


class _Vllm(BaseHTTPRequestHandler):
    """Ten tokens more at each look; ``statuses`` are used up first."""

    statuses: list[int]
    key = ""
    looks = 0

    def do_GET(self) -> None:
        mine = type(self)
        mine.looks += 1
        status = mine.statuses.pop(0) if mine.statuses else 200
        if mine.key and self.headers["Authorization"] != f"Bearer {mine.key}":
            status = 401
        body = TEXT.format(10 * mine.looks).encode() if status == 200 else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    made: list[tuple[HTTPServer, threading.Thread]] = []

    def one(*statuses: int, key: str = "") -> str:
        handler = type("Handler", (_Vllm,), {"statuses": list(statuses), "key": key})
        server = HTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        made.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield one
    for server, thread in made:
        server.shutdown()
        server.server_close()
        thread.join()


def run_it(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["watch", *arguments])


def test_a_server_becomes_a_run(home: Path, serve: Callable[..., str]) -> None:
    """Through an outage in the middle; the run is named like the model, and is a serving run."""
    url = serve(200, 200, 500, 500)
    result = run_it(url, "--every", "60ms", "--for", "600ms", "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["source"], told["models"]) == ("vllm", ["org/m"])
    assert told["url"] == f"{url}/metrics"
    run = RunDirectory.open(home, "last", kind="serving")
    assert run.run_id == told["run"]
    assert (run.manifest.name, run.manifest.status) == ("org/m", "finished")
    assert "2 in vain" in result.stderr
    with Store.open(home) as store:
        rows = store.rows(
            "SELECT generation_tokens_per_s FROM serving"
            " ORDER BY start_ns + coalesce(duration_s, 0) * 1e9"
        )
        names = store.rows("SELECT name FROM events ORDER BY at_ns")
    assert rows[0] == (None,)
    assert len(rows) >= 4
    assert all(rate > 0 for (rate,) in rows[1:])
    assert names == [("server.seen",), ("server.unreachable",), ("server.back",)]


def test_with_a_key_and_without(
    home: Path, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve(key="k1")
    monkeypatch.delenv("OPSUITE_API_KEY", raising=False)
    result = run_it(url, "--for", "0s")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "OPSUITE_API_KEY" in result.stderr
    monkeypatch.setenv("OPSUITE_API_KEY", "k1")
    assert run_it(url, "--for", "0s").exit_code == 0
    assert "k1" not in (RunDirectory.open(home, "last").path / "run.json").read_text()


def test_no_password_is_stored_or_shown(home: Path, serve: Callable[..., str]) -> None:
    url = serve().replace("//", "//user:hunter22@")
    result = run_it(f"{url}/metrics?token=hunter22", "--for", "0s")
    assert result.exit_code == 0
    stored = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert b"hunter22" not in stored
    assert "hunter22" not in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["http://127.0.0.1:1", "--for", "200ms", "--every", "100ms"], 3, "never reachable"),
        (["{missing}"], 3, "--enable-metrics"),
        (["file:///etc/passwd"], 2, "no address"),
        (["http://127.0.0.1:1", "--every", "soon"], 2, "is no time"),
        (["http://127.0.0.1:1", "--every", "1ms"], 2, "too short"),
        (["http://127.0.0.1:1", "--for", "-1s"], 2, "is no time"),
    ],
)
def test_what_cannot_be_watched(
    home: Path, serve: Callable[..., str], arguments: list[str], code: int, told: str
) -> None:
    url = serve(*[404] * 9)
    result = run_it(*(argument.format(missing=url) for argument in arguments))
    assert result.exit_code == code, result.stderr
    assert told in result.stderr
    assert not (home / "runs").exists()  # what was never reached leaves no run


@pytest.mark.parametrize(
    ("number", "code", "status"),
    [(signal.SIGTERM, 0, "finished"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_signal_ends_it(
    home: Path, serve: Callable[..., str], number: int, code: int, status: str
) -> None:
    script = (
        "import typer; from opsuite.cli.main import Commands; from opsuite.cli.watch import watch\n"
        "app = typer.Typer(cls=Commands); app.callback()(lambda: None); app.command()(watch)\n"
        "app()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, "watch", serve(), "--every", "50ms"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    ) as process:
        try:
            assert process.stdout is not None
            run_id = process.stdout.readline().strip()
            time.sleep(0.2)
            process.send_signal(number)
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == code, errors
    run = RunDirectory.open(home, run_id)
    assert (run.manifest.status, run.manifest.exit_code) == (status, code)
