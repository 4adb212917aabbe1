"""``opsuite chat``: what it asks a server, what reaches the terminal, and what stops."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOSTILE = "\x1b]0;owned\x07\x1b[2J red \x9b31m\u202e back\ud800 \r.\n"


class Compatible(ThreadingHTTPServer):
    """Anybody's server of OpenAI's API.

    Attributes:
        asked: path, key and body of each request for an answer.
        answers: by the number of such requests before: pieces, an HTTP status with a body, or
            None: pieces until the client goes away.
        left: set when a client has gone away.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str | None, dict[str, Any]]] = []
        self.answers: list[list[str] | tuple[int, bytes] | None] = []
        self.left = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Compatible

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass

    def do_GET(self) -> None:
        self._whole(200, json.dumps({"data": [{"id": "some/model"}, {"id": "other"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers["Authorization"], body))
        answer = self.server.answers[len(self.server.asked) - 1]
        if isinstance(answer, tuple):
            self._whole(*answer)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        if answer is None:
            self._endless()
        else:
            for piece in answer:
                self._piece(piece)
            self.wfile.write(b"data: [DONE]\n\n")

    def _endless(self) -> None:
        try:
            while True:
                self._piece("on and ")
                time.sleep(0.02)
        except OSError:
            self.server.left.set()

    def _piece(self, text: str) -> None:
        choice = {"text": text} if self.path == "/v1/completions" else {"delta": {"content": text}}
        self.wfile.write(b": a comment\n\ndata: " + json.dumps({"choices": [choice]}).encode())
        self.wfile.write(b"\n\n")

    def _whole(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Compatible]:
    with Compatible() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "opsuite.cli.main", "chat", *arguments]


def chat(*arguments: str, said: str | None = None, **variables: str) -> Any:
    return subprocess.run(
        command(*arguments),
        input=said,
        stdin=None if said is not None else subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONUTF8": "1", **variables},
    )


def test_one_answer_with_all_that_was_asked_for(server: Compatible, tmp_path: Path) -> None:
    server.answers = [["Bon", "jour"]]
    (tmp_path / "key").write_text("secret\n")
    result = chat(
        *(f"{server.url}/v1", "hello", "--system", "Be brief.", "--model", "other"),
        *("--max-tokens", "7", "--temperature", "0.5", "--api-key-file", str(tmp_path / "key")),
    )
    assert (result.returncode, result.stdout) == (0, "Bonjour\n"), result.stderr
    path, key, body = server.asked[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer secret")
    assert body == {
        "model": "other",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hello"},
        ],
        "max_tokens": 7,
        "temperature": 0.5,
        "stream": True,
    }


def test_a_piped_prompt_to_the_first_model_raw(server: Compatible) -> None:
    server.answers = [[" b", " c"]]
    result = chat(server.url, "--raw", said="a", OPSUITE_API_KEY="from-the-environment")
    assert (result.returncode, result.stdout) == (0, " b c\n"), result.stderr
    path, key, body = server.asked[0]
    assert (path, key) == ("/v1/completions", "Bearer from-the-environment")
    assert (body["model"], body["prompt"]) == ("some/model", "a")
    assert "messages" not in body


def test_what_a_server_says_has_no_power_over_the_terminal(server: Compatible) -> None:
    told = {"error": {"message": HOSTILE, "code": "x"}}
    server.answers = [[*HOSTILE], (400, json.dumps(told).encode()), (503, b"\x1b[2J")]
    results = [chat(server.url, "hello") for _ in server.answers]
    assert [each.returncode for each in results] == [0, 2, 3]
    assert r"\x1b]0;owned\x07\x1b[2J red \x9b31m\u202e back" in results[0].stdout
    for each in results:
        shown = each.stdout + each.stderr
        assert not set(shown) & set("\x1b\x07\x9b\u202e\r"), shown
    assert "owned" in results[1].stderr


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        ((400, b'{"error": {"message": "no", "code": "no_chat_template"}}'), 2, "--raw"),
        ((400, b'{"object": "error", "message": "a chat template is needed"}'), 2, "--raw"),
        ((401, b'{"error": {"message": "who?"}}'), 2, "OPSUITE_API_KEY"),
        ((404, b'{"error": {"message": "no such model"}}'), 2, "no such model"),
        ((429, b"busy"), 3, "try again"),
        ((500, b"\xff"), 3, "answered 500"),
    ],
)
def test_refusals(server: Compatible, answer: tuple[int, bytes], code: int, says: str) -> None:
    server.answers = [answer]
    result = chat(server.url, "hello")
    assert result.returncode == code, result.stderr
    assert says in result.stderr
    assert result.stdout.strip() == ""


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("http://127.0.0.1:1", "hello"), 3, "does not answer"),
        (("ftp://127.0.0.1", "hello"), 2, "no address"),
        (("say hello",), 2, "opsuite chat URL PROMPT"),
        (("http://127.0.0.1:1", "  "), 2, "the prompt is empty"),
        (("http://127.0.0.1:1", "hello", "--raw", "--system", "x"), 2, "--system"),
    ],
)
def test_what_cannot_be_asked(arguments: tuple[str, ...], code: int, says: str) -> None:
    result = chat(*arguments)
    assert result.returncode == code, result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.stderr


PATIENCE_S = 60.0


@contextmanager
def at_a_terminal(
    *arguments: str,
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[str], None], Callable[[str], str]]]:
    """The process, to type a line, and to read until something is there."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(*arguments), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    seen = bytearray()

    def type_line(text: str) -> None:
        os.write(ours, f"{text}\n".encode())

    def until(text: str) -> str:
        """All until it; read only once."""
        while text.encode() not in seen:
            assert select.select([ours], [], [], PATIENCE_S)[0], (
                f"no {text!r} after {bytes(seen)!r}"
            )
            seen.extend(os.read(ours, 4096))
        end = seen.index(text.encode()) + len(text.encode())
        read = bytes(seen[:end]).decode(errors="replace")
        del seen[:end]
        return read

    try:
        yield process, type_line, until
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.alone
def test_a_conversation(server: Compatible, tmp_path: Path) -> None:
    """Its turns are sent along; Ctrl-C stops an answer, of which the model hears; what failed is
    not part of it."""
    server.answers = [["one"], None, (503, b"busy"), ["two"], ["three"]]
    saved = tmp_path / "saved.json"
    with at_a_terminal(server.url) as (process, type_line, until):
        until("some/model")
        until("> ")
        type_line("first")
        until("one")
        until("> ")
        type_line("second")
        until("on and on and ")
        process.send_signal(signal.SIGINT)
        until("(stopped)")
        assert server.left.wait(10), "the server can stop, too"
        until("> ")
        type_line("third")
        until("answered 503")
        until("> ")
        type_line("//slashed")
        until("two")
        until("> ")
        type_line("/nonsense")
        until("there is no /nonsense")
        until("> ")
        type_line(f"/save {saved}")
        until("(written")
        type_line("/reset")
        until("(forgotten)")
        type_line("/system Be brief.")
        until("told first")
        until("> ")
        type_line("fourth")
        until("three")
        until("> ")
        time.sleep(0.5)  # a signal between the prompt and readline's wait is seen at the next key
        process.send_signal(signal.SIGINT)
        until("Ctrl-D leaves")
        type_line("/quit")
        assert process.wait(10) == 0
    told = [each["content"] for each in server.asked[3][2]["messages"]]
    assert told[:3] == ["first", "one", "second"]
    assert told[3].startswith("on and on and ")
    assert told[4:] == ["/slashed"]
    assert json.loads(saved.read_text())["messages"][-1] == {"role": "assistant", "content": "two"}
    assert server.asked[4][2]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "fourth"},
    ]


@pytest.mark.alone
def test_our_own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of its ways to answer; and what it says where the model has no template."""
    pytest.importorskip("torch", reason="needs the engine extra")
    from engine.models.config import ModelConfig
    from engine.models.huggingface import save_pretrained
    from engine.models.initialization import initialize
    from engine.models.tokenizer import train_tokenizer
    from engine.models.transformer import Transformer
    from opsuite.serving_process import serving

    monkeypatch.setenv("OPSUITE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OPSUITE_COLLECT", "0")
    directory = tmp_path / "small"
    directory.mkdir()
    tokenizer = train_tokenizer(["a text of a few words"], 300)
    config = ModelConfig(vocab_size=300, hidden_size=32, n_layers=1, intermediate_size=48)
    network = Transformer(config)
    initialize(network, seed=0)
    save_pretrained(directory, config, dict(network.named_parameters()), tokenizer.to_str())
    options = ("--max-tokens", "4", "--temperature", "0")
    with serving(str(directory), "--threads", "1", "--device", "cpu") as announced:
        refused = chat(announced.url, "a text", *options)
        continued = chat(announced.url, "a text", "--raw", *options)
    assert (refused.returncode, refused.stdout.strip()) == (2, "")
    assert "--raw" in refused.stderr
    assert continued.returncode == 0, continued.stderr
    template = "{% for each in messages %}{{ each.role }}: {{ each.content }} {% endfor %}"
    (directory / "chat_template.jinja").write_text(template)
    with serving(str(directory), "--threads", "1", "--device", "cpu") as announced:
        chatted = chat(announced.url, "a text", *options)
        as_text = chat(announced.url, "user: a text ", "--raw", *options)
    assert chatted.returncode == 0, chatted.stderr
    assert chatted.stdout == as_text.stdout, "the template's text is what the model reads"
    assert "cut off" in chatted.stderr
