"""Steps of a watched trainer are tiled by their phases, whatever is nested in what."""

from __future__ import annotations

import itertools
import types
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.board import Activity, Board, own_facts
from collectors.board_reader import BoardReader
from collectors.recorder import NullRecorder
from engine.watching.patches import Patches
from engine.watching.timeline import Timeline

if TYPE_CHECKING:
    from pathlib import Path

PHASES = [Activity.DATA, Activity.FORWARD, Activity.BACKWARD, Activity.EVALUATION]


class Recorder(NullRecorder):
    """Keeps the spans."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, int, int, int]] = []

    def record_span(self, name: str, start_ns: int, end_ns: int, step: int = -1) -> None:
        self.spans.append((name, start_ns, end_ns, step))


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    return Board(tmp_path_factory.mktemp("boards"), own_facts("p", 0, 1))


@given(st.lists(st.lists(st.tuples(st.sampled_from(PHASES), st.integers(0, 3)), max_size=6)))
def test_phases_tile_every_step(board: Board, steps: list[list[tuple[Activity, int]]]) -> None:
    now, recorder, done = [1_000_000], Recorder(), list[int]()

    def clock() -> int:
        now[0] += 1_000_000
        return now[0]

    timeline = Timeline(recorder, board, done.append, clock)
    timeline.begin(Activity.DATA)
    timeline.end(Activity.DATA)
    for phases in steps:
        for phase, nested in phases:
            timeline.begin(phase)
            for _ in range(nested):
                timeline.begin(Activity.FORWARD)
                timeline.end(Activity.FORWARD)
            timeline.end(phase)
        timeline.complete_step()
    assert done == list(range(1, len(steps) + 1))
    for step in done:
        spans = [span for span in recorder.spans if span[3] == step]
        (whole,) = [span for span in spans if span[0] == "step"]
        parts = [span for span in spans if span[0] != "step"]
        assert parts[0][1] == whole[1]
        assert parts[-1][2] == whole[2]
        for before, after in itertools.pairwise(parts):
            assert before[2] == after[1], "no gap and no overlap"


def test_the_board_follows(tmp_path: Path) -> None:
    board = Board(tmp_path, own_facts("p", 0, 1))
    reader = BoardReader(board.path)
    timeline = Timeline(NullRecorder(), board, lambda step: None)
    timeline.begin(Activity.FORWARD)
    assert reader.read().activity is Activity.FORWARD
    timeline.interrupt(Activity.COMPILE)
    assert reader.read().activity is Activity.COMPILE
    timeline.resume()
    assert reader.read().activity is Activity.FORWARD
    timeline.end(Activity.FORWARD)
    timeline.complete_step()
    timeline.number(100)
    timeline.begin(Activity.CHECKPOINT)
    timeline.end(Activity.CHECKPOINT)
    state = reader.read()
    assert (state.step, state.steps_done) == (100, 1)
    assert state.activity is Activity.CHECKPOINT, "its writing may go on"


def test_other_threads_have_no_part_in_the_steps() -> None:
    import threading

    recorder = Recorder()
    timeline = Timeline(recorder, _board_of_nobody(), lambda step: None)

    def elsewhere() -> None:
        timeline.begin(Activity.DATA)
        timeline.end(Activity.DATA)
        timeline.complete_step()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert recorder.spans == []
    assert timeline.step == 1


def _board_of_nobody() -> Any:
    return types.SimpleNamespace(tick=lambda: None, step=lambda *_: None, activity=lambda _: None)


def test_patches_are_undone_also_under_somebody_elses() -> None:
    def greet(name: str) -> str:
        """Say hello."""
        return f"hello {name}"

    module: Any = types.ModuleType("theirs")
    module.greet = greet
    patches = Patches()
    calls: list[str] = []

    def noticed(function: Any) -> Any:
        def call(*args: Any) -> Any:
            calls.append("ours")
            return function(*args)

        return call

    patches.wrap(module, "greet", noticed)
    patches.wrap(module, "absent", noticed)
    assert module.greet.__doc__ == "Say hello."
    assert module.greet("a") == "hello a"
    over_ours = module.greet
    module.greet = lambda name: over_ours(name) + "!"
    patches.undo()
    assert module.greet("b") == "hello b!", "who came after us stays"
    assert calls == ["ours"]
    assert not hasattr(module, "absent")
