"""Recording beside what PyTorch does: worker processes, compiled code, captured graphs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from collectors.recorder import NullRecorder, Recorder, open_recorder
from collectors.spool import SpoolReader

torch = pytest.importorskip("torch")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from collectors.recorder import Identity
    from collectors.spool import Batch

    Rows = Callable[[Iterable[Batch]], list[tuple[Any, ...]]]

ITEMS = 400


class RecordedItems(torch.utils.data.Dataset[int]):  # type: ignore[name-defined,misc]
    """Records each item that is loaded, by whichever process loads it."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, index: int) -> int:
        with self.recorder.span("load", index):
            self.recorder.sample("loaded", index, index)
        return index


@pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"
)
def test_workers_of_a_data_loader_record_each_item_once(
    rows: Rows, identity: Identity, tmp_path: Path
) -> None:
    """They are forked from the trainer in the middle of its recording, and end by os._exit."""
    recorder = open_recorder(tmp_path, identity)
    loader = torch.utils.data.DataLoader(
        RecordedItems(recorder),
        batch_size=8,
        num_workers=2,
        multiprocessing_context="fork",
    )
    for epoch in range(2):
        for batch in loader:
            with recorder.span("step", epoch):
                assert len(batch) == 8
    recorder.close()
    batches = SpoolReader(tmp_path).poll()
    found = rows(batches)
    assert Counter(row[4] for row in found if row[1] == "load") == dict.fromkeys(range(ITEMS), 2)
    assert Counter(row[2] for row in found if row[1] == "loaded") == dict.fromkeys(range(ITEMS), 2)
    assert Counter(row[1] for row in found)["step"] == 2 * ITEMS // 8
    assert len({batch.process for batch in batches}) == 5, "two workers an epoch, and the trainer"
    assert sum(batch.dropped for batch in batches) == 0


@pytest.mark.parametrize("recording", [True, False])
def test_compiled_code_keeps_one_graph(
    rows: Rows,
    identity: Identity,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recording: bool,
) -> None:
    """Around a compiled function spans are recorded; inside of it they do nothing, and no harm.

    ``fullgraph`` makes a graph break an error, and so is compiling again as the recorder moves on.
    """
    recorder: Recorder = NullRecorder()
    if recording:  # with small segments: several of them while the compiled code runs
        monkeypatch.setattr("collectors.spool_room.LEAST_CAP", 1 << 20)
        recorder = open_recorder(tmp_path, identity, cap_bytes=1)

    def layer(x: Any) -> Any:
        with recorder.span("inside", 1):
            x = torch.sin(x)
            recorder.sample("a sample", 1.0)
            recorder.event("an event", attributes={"a": 1})
            recorder.record_span("measured", 1, 2)
        recorder.collective(
            "sum", group="tp", group_size=2, sequence=1, size_bytes=8, start_ns=1, end_ns=2
        )
        return x + 1

    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    x = torch.ones(3)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for step in range(3000):
            with recorder.span("around", step):
                result = compiled(x)
    recorder.close()
    assert len(list(tmp_path.iterdir())) == (3 if recording else 0)
    assert torch.equal(result, layer(x))
    found = Counter(row[1] for row in rows(SpoolReader(tmp_path).poll()))
    assert found == ({"around": 3000} if recording else {})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_captured_graph_may_record(rows: Rows, identity: Identity, tmp_path: Path) -> None:
    """Recording asks nothing of CUDA, so a capture stays whole; replays run no Python."""
    recorder = open_recorder(tmp_path, identity)
    x = torch.ones(1024, device="cuda")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with recorder.span("capture"), torch.cuda.graph(graph), recorder.span("inside"):
        y = x * 2 + 1
    for step in range(3):
        with recorder.span("replay", step):
            graph.replay()
    torch.cuda.synchronize()
    recorder.close()
    assert y.sum().item() == 3 * 1024
    found = Counter(row[1] for row in rows(SpoolReader(tmp_path).poll()))
    assert found == {"capture": 1, "inside": 1, "replay": 3}
