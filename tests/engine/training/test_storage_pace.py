"""A checkpoint that is written much more slowly than others is told of, and nothing else is."""

from __future__ import annotations

from typing import Any

from collectors.recorder import NullRecorder
from engine.training.storage_pace import EVENT, StoragePace


class Kept(NullRecorder):
    """Keeps the events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any, dict[str, Any]]] = []

    def event(self, name: str, **fields: Any) -> None:
        self.events.append((name, fields["subject"], fields["attributes"]))


def test_slow_against_the_usual_and_long_waits_are_told() -> None:
    kept = Kept()
    pace = StoragePace(kept, nbytes=10**9)
    pace.wrote(30.0, 1)  # the first: 33 MB/s may be usual here
    for step in range(2, 8):
        pace.wrote(1.0, step)
        pace.waited(0.5, step)
    pace.wrote(1.9, 8)
    assert not kept.events
    pace.wrote(6.0, 9)
    pace.waited(4.0, 10)
    assert kept.events == [
        (EVENT, 9, {"seconds": 6.0, "usual_s": 1.0}),
        (EVENT, 10, {"waited_s": 4.0}),
    ]


def test_storage_that_is_always_fast_may_take_a_second_once() -> None:
    kept = Kept()
    pace = StoragePace(kept, nbytes=10**6)
    for step in range(5):
        pace.wrote(0.01, step)
    pace.wrote(1.5, 5)
    assert not kept.events


def test_a_first_checkpoint_that_crawls_is_told() -> None:
    kept = Kept()
    StoragePace(kept, nbytes=2 * 10**6).wrote(4.5, 1)
    assert kept.events == [(EVENT, 1, {"seconds": 4.5, "usual_s": 0.2})]
