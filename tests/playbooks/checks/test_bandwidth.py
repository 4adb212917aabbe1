"""Memory and loopback: figures where all is well, and corruption where data are spoilt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from playbooks.checks.check import Verdict
from playbooks.checks.loopback import Loopback
from playbooks.checks.memory import Memory
from playbooks.checks.processors import gpu_count, memory_nodes, parse_cores, usable_cores

if TYPE_CHECKING:
    from pathlib import Path


def test_every_memory_node_has_a_figure() -> None:
    found = Memory().measure(0.1)
    assert [measured.subject for measured in found[: len(memory_nodes())]] == list(memory_nodes())
    for measured in found:
        assert measured.fault is None
        assert measured.value is not None
        assert measured.value > 0


def test_memory_that_loses_a_bit_is_corrupt() -> None:
    def add(b: Any, c: Any, a: Any) -> None:
        np.add(b, c, out=a)
        a.view(np.uint64)[1234] ^= 1 << 20

    core = usable_cores()[0]
    (found, *_) = Memory(nodes={"node0": [core]}, add=add).measure(0.05)
    assert found.fault is Verdict.CORRUPT
    assert "1 elements" in found.detail


def test_loopback_has_a_figure() -> None:
    (found, *_) = Loopback().measure(0.1)
    assert found.fault is None
    assert found.value is not None
    assert found.value > 0


def test_bytes_that_change_on_their_way_are_corrupt() -> None:
    def spoil(block: bytes) -> bytes:
        return block[:-1] + bytes([block[-1] ^ 1])

    (found, *_) = Loopback(wire=spoil).measure(0.05)
    assert found.fault is Verdict.CORRUPT


@pytest.mark.skipif(gpu_count() == 0, reason="this machine has no GPU")
def test_gpu_copies_have_figures_and_are_sound() -> None:
    found = Loopback().measure(0.5)[1:] + Memory().measure(0.5)[len(memory_nodes()) :]
    assert len(found) == 3 * gpu_count()
    assert all(measured.fault is None and measured.value for measured in found)


def test_cores_are_read_as_the_kernel_lists_them() -> None:
    assert parse_cores("0-2,8\n") == [0, 1, 2, 8]
    assert parse_cores("\n") == []


def test_memory_nodes_are_those_with_usable_cores(tmp_path: Path) -> None:
    core = usable_cores()[0]
    for node, cores in {"node0": f"{core}", "node1": "", "node10": "4000-4001"}.items():
        (tmp_path / node).mkdir()
        (tmp_path / node / "cpulist").write_text(cores + "\n")
    assert memory_nodes(tmp_path) == {"node0": [core]}
    assert memory_nodes(tmp_path / "absent") == {"node0": usable_cores()}
