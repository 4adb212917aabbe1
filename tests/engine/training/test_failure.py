"""Of all the ends that one failure causes, the cause is named."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from engine.training.failure import ObservedFailure, explain, first_failure

if TYPE_CHECKING:
    from pathlib import Path

KILL, TERM, SEGV = -signal.SIGKILL, -signal.SIGTERM, -signal.SIGSEGV


def end(rank: int, exit_code: int, at_s: float, *, lost_peer: bool = False) -> ObservedFailure:
    reported = int(at_s * 1e9) if exit_code > 0 else None
    return ObservedFailure(
        rank=rank,
        exit_code=exit_code,
        noticed_s=int(at_s),
        reported_ns=reported,
        lost_peer=lost_peer,
    )


@pytest.mark.parametrize(
    ("failures", "cause"),
    [
        # A killed rank; its peer reports a lost connection, in the same second.
        ([end(0, 1, 10.1, lost_peer=True), end(1, KILL, 10.2)], 1),
        ([end(0, TERM, 10.3), end(1, SEGV, 10.2)], 1),
        # An error; the agent ends the others, the stubborn one by SIGKILL later.
        ([end(1, 1, 10.5), end(0, TERM, 11.0), end(2, KILL, 16.0)], 1),
        # Two errors in one second: the earlier, and not the one about the connection.
        ([end(0, 1, 10.9), end(1, 1, 10.2)], 1),
        ([end(0, 1, 10.1, lost_peer=True), end(1, 1, 10.2)], 1),
        # Somebody ended a rank by SIGTERM, before the agent had a reason to.
        ([end(1, TERM, 10.0), end(0, TERM, 10.1)], 1),
        ([end(0, 1, 10.1, lost_peer=True), end(1, TERM, 10.1)], 1),
    ],
)
def test_the_cause_is_found(failures: list[ObservedFailure], cause: int) -> None:
    assert first_failure(failures).rank == cause


def test_the_end_of_a_long_log_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "rank1.log"
    log.write_text("".join(f"line {i}\n" for i in range(100_000)) + "the last words\n")
    text = str(explain(end(1, KILL, 1.0), host="here", log=log))
    assert "rank 1 on here failed first: killed by SIGKILL" in text
    assert text.endswith("the last words")
    assert len(text) < 2000
