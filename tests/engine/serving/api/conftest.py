"""A real server process, one for all tests of the API."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[4]
COMMAND = [sys.executable, "-W", "error", "-m", "opsuite.cli.main", "serve"]
TEMPLATE = """{{ bos_token }}{% for message in messages %}
[{{ message.role }}{% if message.name %} {{ message.name }}{% endif %}] {{ message.content }}
{% endfor %}
{% if messages[-1].content == 'refuse' %}{{ raise_exception('I do not speak of that.') }}{% endif %}
{% if add_generation_prompt %}[assistant]{% endif %}"""


class ServerProcess:
    """``opsuite serve`` in a process of its own, ready, with a key unless it is None."""

    def __init__(
        self, home: Path, model: Path, *options: str, key: str | None = None, **environment: str
    ) -> None:
        self.home = home
        self.key = key
        keyed = {} if key is None else {"OPSUITE_API_KEY": key}
        self.process = subprocess.Popen(
            [*COMMAND, str(model), "--port", "0", "--threads", "1", "--json", *options],
            env=os.environ
            | {"PYTHONPATH": str(ROOT), "OPSUITE_HOME": str(home), "OMP_NUM_THREADS": "1"}
            | {"OPSUITE_COLLECT": "0"}
            | keyed
            | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self.process.communicate()[1])
        ready = json.loads(line)
        self.url: str = ready["url"]
        self.run_id: str = ready["run"]
        self.address = ("127.0.0.1", int(self.url.rpartition(":")[2]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self, number: int) -> tuple[int, str]:
        """Send a signal; exit code and what was written to stderr."""
        self.process.send_signal(number)
        return self.join()

    def join(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors

    def openai(self, **options: Any) -> Any:
        """OpenAI's own client of it."""
        import openai

        key = self.key or "any"
        given: dict[str, Any] = {"base_url": f"{self.url}/v1", "api_key": key, "max_retries": 0}
        return openai.OpenAI(**given | options)

    def http(self) -> Any:
        """A plain client of it."""
        import httpx

        headers = {} if self.key is None else {"authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)

    def metrics(self) -> dict[str, float]:
        """Its metrics by name, without prefix; of several labels the sum."""
        from prometheus_client.parser import text_string_to_metric_families

        found: dict[str, float] = {}
        with self.http() as http:
            text = http.get("/metrics").text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                name = sample.name.removeprefix("opsuite:")
                found[name] = found.get(name, 0.0) + sample.value
        return found


@pytest.fixture(scope="session")
def chat_directory(model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a chat template."""
    directory = tmp_path_factory.mktemp("chat") / "tiny"
    shutil.copytree(model_directory, directory)
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return directory


@pytest.fixture(scope="session")
def start_server() -> Callable[..., ServerProcess]:
    pytest.importorskip("torch", reason="needs the engine extra")
    pytest.importorskip("httpx", reason="needs the test extra")
    pytest.importorskip("openai", reason="needs the test extra")
    return ServerProcess


@pytest.fixture(scope="session")
def server(
    start_server: Callable[..., ServerProcess],
    chat_directory: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServerProcess]:
    """Whatever the tests do to it, it is asked to end at last, and says nothing of trouble."""
    home = tmp_path_factory.mktemp("home")
    with start_server(home, chat_directory, "--max-batch", "4", key="secret-key") as server:
        yield server
        code, errors = server.end(signal.SIGTERM)
    assert code == 0
    assert errors == f"serving tiny at {server.url}\n"


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[Any]:
    with server.openai() as client:
        yield client
