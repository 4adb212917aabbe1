"""What all tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty OPSUITE_HOME of this test's own."""
    path = tmp_path / "home"
    monkeypatch.setenv("OPSUITE_HOME", str(path))
    return path
