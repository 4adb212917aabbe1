"""How alerts reach people: a line in ``alerts.jsonl`` (and the bell), a command, a webhook.

Each has a time limit and runs beside the watch; a channel that fails is told in the log.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from collectors.alerts.policy import Alarm
    from collectors.alerts.rule import AlertRule, Channel

_log = logging.getLogger("opsuite")
JOURNAL = "alerts.jsonl"
_JOURNAL_BYTES = 4_000_000
_MOST_WAITING = 100
_WORKERS = 2
_PAUSES_S = (1.0, 3.0)  # before the second and the third attempt of a webhook


class NotTold(Exception):  # noqa: N818 - caught where it is logged
    """A channel did not take the alert; ``again`` where another attempt may help."""

    def __init__(self, why: str, *, again: bool = False) -> None:
        super().__init__(why)
        self.again = again


class Notifier:
    """Tells alarms through their rules' channels, two at a time, in the order of arrival.

    Attributes:
        told, failed, dropped: how many channels took an alarm, did not, or had no room to wait.
    """

    def __init__(self, journal: Path, *, pause: Callable[[float], object] = time.sleep) -> None:
        self._journal = journal
        self._pause = pause
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="alert")
        self._lock = threading.Lock()
        self._waiting = 0
        self._refusals: dict[tuple[str, str], str] = {}  # by rule and channel, of its last alarm
        self.told = self.failed = self.dropped = 0

    def tell(self, rule: AlertRule, alarm: Alarm) -> None:
        """Write the alarm into the journal now, and pass it to the other channels soon."""
        told = {**alarm.to_json(), "bell": any(channel.bell for channel in rule.notify)}
        _log.warning("alert %s %s: %s", alarm.rule, alarm.state, alarm.message)
        try:
            append_journal(self._journal, told)
        except OSError as error:
            _log.warning("the alert is not in %s: %s", self._journal, error.strerror or error)
        for channel in rule.notify:
            if not channel.bell:
                self._submit(channel, alarm.to_json())

    def _submit(self, channel: Channel, data: dict[str, Any]) -> None:
        with self._lock:
            if self._waiting >= _MOST_WAITING:
                self.dropped += 1
                return
            self._waiting += 1
        self._pool.submit(self._send, channel, data)

    def _send(self, channel: Channel, data: dict[str, Any]) -> None:
        try:
            send(channel, data, pause=self._pause)
            refusal = ""
        except NotTold as error:
            refusal = str(error)
            _log.warning("alert %s: %s: %s", data["rule"], shown(channel), refusal)
        except Exception as error:  # noqa: BLE001 - the other channels go on: logged and counted
            refusal = f"{type(error).__name__}: {error}"
            _log.exception("alert %s: %s", data["rule"], shown(channel))
        about = (data["rule"], channel.model_dump_json())
        with self._lock:
            self._waiting -= 1
            self.told += not refusal
            self.failed += bool(refusal)
            self._refusals.pop(about, None)
            if refusal and not lacks_program(channel):  # that can be seen at any time
                self._refusals[about] = refusal

    def troubles(self, rules: Sequence[AlertRule]) -> list[str]:
        """What keeps the channels of ``rules`` from telling: of each, what its last alarm met."""
        with self._lock:
            refusals = dict(self._refusals)
        found = []
        for rule in rules:
            for channel in rule.notify:
                why = refusals.get((rule.name, channel.model_dump_json()), "")
                if lacks_program(channel):
                    why = "cannot be started: there is no such program"
                if why:
                    found.append(f"alert {rule.name}: {shown(channel)}: {why}")
        return found

    def close(self) -> None:
        """Let what is being told end; what still waits is given up."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def send(
    channel: Channel,
    data: Mapping[str, Any],
    *,
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Pass one alert on; NotTold says why it was not taken."""
    body = json.dumps(data, default=str).encode()
    if channel.command:
        run_command(channel.command, body, channel.timeout_s)
    elif channel.webhook:
        for wait_s in (*_PAUSES_S, None):
            try:
                return post(channel.webhook, body, channel.timeout_s)
            except NotTold as error:
                if not error.again or wait_s is None:
                    raise
                pause(wait_s)


def run_command(command: list[str], body: bytes, timeout_s: float) -> None:
    """Start a program of the user with the alert on its stdin; it and its children end in time."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise NotTold(f"cannot be started: {error.strerror}") from error
    with process:
        try:
            process.communicate(body, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise NotTold(f"not ended after {timeout_s:g} s, killed") from None
        finally:
            # Its group may outlive it, or be gone: either way nothing of it stays.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise NotTold(f"exit code {process.returncode}")


def post(url: str, body: bytes, timeout_s: float) -> None:
    """POST JSON to an http(s) URL within ``timeout_s`` in all; redirects are not followed."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=timeout_s)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    watchdog = threading.Timer(timeout_s, _hang_up, [connection])  # against a server that drips
    watchdog.start()
    try:
        connection.request("POST", target, body, {"Content-Type": "application/json"})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotTold(f"no answer: {type(error).__name__}", again=True) from error
    finally:
        watchdog.cancel()
        connection.close()
    if status >= 300:
        raise NotTold(f"answered {status}", again=status >= 500 or status == 429)


def _hang_up(connection: http.client.HTTPConnection) -> None:
    with suppress(OSError, AttributeError):  # it may be closed already
        connection.sock.shutdown(2)


def shown(channel: Channel) -> str:
    """The channel without its secrets: of a URL the host, of a command the program."""
    if channel.webhook:
        parts = urlsplit(channel.webhook)
        return f"{parts.scheme}://{parts.hostname}/..."
    return channel.command[0] if channel.command else "bell"


def lacks_program(channel: Channel) -> bool:
    """Whether the channel's command is one that cannot be found, or not be executed, here."""
    return bool(channel.command) and shutil.which(channel.command[0]) is None


def append_journal(path: Path, data: Mapping[str, Any]) -> None:
    """Add a line; of a file that is too long a new one is begun, and the last is kept as ``.1``."""
    with suppress(FileNotFoundError):
        if path.stat().st_size > _JOURNAL_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        os.write(descriptor, json.dumps(data, default=str).encode() + b"\n")
    finally:
        os.close(descriptor)
