"""What people are told of a job that recovers."""

from __future__ import annotations

from typing import Any

import pytest

from opsuite.job_news import told

INCIDENT = {
    "cause": "killed",
    "recover": True,
    "hosts": ["a"],
    "ranks": [1],
    "detail": "SIGKILL",
    "step": 7,
}


@pytest.mark.parametrize(
    ("name", "facts", "line"),
    [
        ("incident", INCIDENT, "killed (rank 1, a) at step 7: SIGKILL; starting again"),
        (
            "attempt",
            {"step": 5, "resume": "memory", "hosts": ["a", "b"]},
            "going on after step 5, from memory, on a, b",
        ),
        ("attempt", {"step": 0, "resume": "nothing", "hosts": ["a"]}, ""),
        ("host.blocked", {"host": "a", "why": "slow"}, "a is left out: slow"),
        ("host.checked", {"host": "a", "sound": True, "detail": ""}, ""),
        ("phase", {"phase": "running"}, ""),
    ],
)
def test_each_item_in_a_line(name: str, facts: dict[str, Any], line: str) -> None:
    assert told({"number": 1, "name": name, "facts": facts}) == line
