"""What all tests share."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True, scope="session")
def nobody_collects() -> Iterator[None]:
    """Runs of tests start no collector in the background, which would outlive them."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("OPSUITE_COLLECT", "0")
        yield


@pytest.fixture(autouse=True, scope="session")
def signals_are_heeded() -> None:
    """Also where the tests were started to ignore some (``nohup``, or a script's background):
    what they start would inherit that."""
    heeded: dict[signal.Signals, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGQUIT: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    for number, handler in heeded.items():
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty OPSUITE_HOME of this test's own."""
    path = tmp_path / "home"
    monkeypatch.setenv("OPSUITE_HOME", str(path))
    return path
