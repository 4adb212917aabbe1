"""Pauses of the garbage collector, recorded by the process that makes them."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import TYPE_CHECKING

from collectors.query.direct import Store
from collectors.samplers.garbage import SPAN, GarbageWatch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from collectors.recorder import Recorder

    OpenRank = Callable[[int | None], Recorder]

FORKED = """
import gc, os, sys
from collectors.recorder import NullRecorder
from collectors.samplers.garbage import GarbageWatch
class Told(NullRecorder):
    def record_span(self, name, *_):
        print(os.getpid() == parent, flush=True)
parent = os.getpid()
watch = GarbageWatch(Told())
watch.start()
kept = [[] for _ in range(300_000)]
if not os.fork():
    gc.collect()
    os._exit(0)
os.wait()
gc.collect()
"""


def _make_garbage() -> None:
    for _ in range(100_000):
        ring: list[object] = []
        ring.append(ring)


def test_long_pauses_are_spans_and_all_are_counted(home: Path, open_rank: OpenRank) -> None:
    recorder = open_rank(0)
    before = list(gc.callbacks)
    watch = GarbageWatch(recorder)
    gc.disable()
    try:
        watch.start()
        watch.start()
        _make_garbage()
        gc.collect()
        gc.collect(0)  # of nothing
    finally:
        gc.enable()
        watch.stop()
    watch.stop()
    assert gc.callbacks == before
    gc.collect()
    with Store.open(home) as store:
        [(paused_s,)] = store.rows(f"SELECT duration_s FROM spans WHERE name = '{SPAN}'")
        counted = dict(store.rows("SELECT name, value FROM samples WHERE starts_with(name, 'gc.')"))
    assert paused_s >= 0.001
    assert counted["gc.2.collections"] == counted["gc.0.collections"] == 1
    assert counted["gc.2.pause_s"] >= paused_s > counted["gc.0.pause_s"]


def test_the_pauses_of_forked_workers_are_not_the_ranks() -> None:
    answer = subprocess.run(
        [sys.executable, "-P", "-c", FORKED], capture_output=True, text=True, check=True
    )
    assert set(answer.stdout.split()) == {"True"}
