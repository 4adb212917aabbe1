"""What all tests share."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

settings.register_profile("shared machine", deadline=None)  # an example may have to wait its turn
settings.load_profile("shared machine")

if TYPE_CHECKING:
    from collections.abc import Iterator

_HERE = Path(__file__).parent
_ALONE = (
    "bench",
    "cli/test_attach",
    "cli/test_demo",
    "cli/test_launch",
    "cli/test_run.",
    "cli/test_run_",
    "cli/test_startup",
    "collectors/daemon",
    "drilling",
    "engine/groups",
    "engine/overlap/test_device_transport",
    "engine/overlap/test_disconnect",
    "engine/overlap/test_operators",
    "engine/overlap/test_peer_loss",
    "engine/overlap/test_split_model",
    "engine/peers",
    "engine/serving/instances/test_distributed",
    "engine/serving/instances/test_processes",
    "engine/training/test_launching",
    "engine/watching/test_trainers",
    "engine/watching/test_watched",
    "playbooks/checks",
    "watchdog",
)
"""Where the tests are that run several busy processes, or measure time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them."""
    for item in items:
        place = item.path.relative_to(_HERE).as_posix()
        if place.startswith(_ALONE):
            item.add_marker("alone")


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
