"""Progress is read from what is recorded, shown sparingly, and blind to an earlier attempt."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from collectors.recorder import Identity, open_recorder
from tui.progress import StepTally, TrainingProgress

if TYPE_CHECKING:
    from pathlib import Path

    from collectors.recorder import Recorder

TOTAL = 200
IDENTITY = Identity(
    run_id="a-run", role="trainer", rank=0, world_size=1, host="here", coordinates={}
)


def record_step(recorder: Recorder, step: int, loss: float) -> None:
    recorder.sample("tokens", 1000, step)
    recorder.sample("loss", loss, step)


def test_rate_and_remaining_time_come_from_recent_steps() -> None:
    tally = StepTally(100)
    tally.tokens_per_step = 50
    tally.add(1, 0, 9.0)
    assert str(tally) == "step 1/100, loss 9.000"
    for step in range(2, 41):
        tally.add(step, step * 500_000_000, 5.0)
    assert str(tally) == "step 40/100, loss 5.000, 100 tokens/s, 30 s left"
    tally.add(41, 41 * 500_000_000, 7.0)
    assert tally.loss == 5.1  # the mean of the recent ones: a single batch says little


def test_about_ten_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    earlier = open_recorder(tmp_path, IDENTITY)
    record_step(earlier, 150, 1.0)
    earlier.close()
    stream = io.StringIO()
    recorder = open_recorder(tmp_path, IDENTITY)
    with TrainingProgress(tmp_path, total_steps=TOTAL, stream=stream) as progress:
        for step in range(1, TOTAL + 1):
            record_step(recorder, step, 3.0)
            if step % 7 == 0:
                progress._update()
    recorder.close()
    lines = stream.getvalue().splitlines()
    assert 8 <= len(lines) <= 11
    steps = [int(re.match(r"step (\d+)/200, loss 3.000", line)[1]) for line in lines]  # type: ignore[index]
    assert steps[-1] == TOTAL
    assert steps[0] < 40
    assert "tokens/s" in lines[-1]
