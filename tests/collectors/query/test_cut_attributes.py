"""An event whose attributes are no JSON, or not what was expected, spoils no view."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from collectors.clock import host_name
from collectors.level import Level
from collectors.query.direct import Store
from collectors.recorder import Identity, open_recorder

if TYPE_CHECKING:
    from pathlib import Path

    from collectors.run import RunDirectory

EVENT_VIEWS = {
    "requests": "request.arrived",
    "findings": "finding",
    "stacks": "stack",
    "alerts": "alert",
    "heartbeats": "heartbeat",
}


@pytest.mark.parametrize(
    "attributes",
    [
        {"id": "x" * 20_000},  # cut at 16 KiB, in the middle of its text
        {"prompt_tokens": "many", "pid": [], "frames": 7, "ranks": "all", "steps": {}, "count": ""},
    ],
)
def test_the_views_answer_all_the_same(
    home: Path, run: RunDirectory, attributes: dict[str, Any]
) -> None:
    identity = Identity(
        run_id=run.run_id, role="trainer", rank=0, world_size=1, host=host_name(), coordinates={}
    )
    recorder = open_recorder(run.spool, identity, level=Level.TRIGGER)
    for name in EVENT_VIEWS.values():
        recorder.event(name, subject=1, attributes=attributes)
    recorder.close()
    with Store.open(home) as store:
        for view in EVENT_VIEWS:
            assert len(store.rows(f"FROM {view}")) == 1, view
        assert store.rows("SELECT count(*) FROM events") == [(len(EVENT_VIEWS),)]
