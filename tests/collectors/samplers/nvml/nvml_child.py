"""A process that reads NVML and records what it read, when its standard input says so.

``python -P nvml_child.py RUN_DIR SLOW_S``; each line read is a time in seconds, each line written
is JSON: what was read then, or why nothing was, and the CPU time that it took.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from collectors.clock import host_name
from collectors.recorder import Identity, open_recorder
from collectors.run import RunDirectory
from collectors.samplers.nvml import NvmlSampler
from collectors.samplers.sampler import Absent, Reading


def main() -> None:
    run = RunDirectory.load(Path(sys.argv[1]))
    identity = Identity(
        run_id=run.run_id,
        role="daemon",
        rank=None,
        world_size=2,
        host=host_name(),
        coordinates={},
    )
    recorder = open_recorder(run.spool, identity)
    now_s = 0.0
    sampler = NvmlSampler(slow_s=float(sys.argv[2]), clock=lambda: now_s)
    ticks = [0]
    threading.Thread(target=tick, args=(ticks,), daemon=True).start()
    for line in sys.stdin:
        now_s = float(line)
        told: dict[str, Any] = {"readings": {}, "happenings": [], "absent": None}
        before_s, ticked = time.thread_time(), ticks[0]
        try:
            found = sampler.read()
        except Absent as absent:
            found, told["absent"] = [], str(absent)
        told["cpu_s"], told["ticks"] = time.thread_time() - before_s, ticks[0] - ticked
        for one in found:
            if isinstance(one, Reading):
                told["readings"][one.name] = one.value
                recorder.sample(one.name, one.value)
            else:
                told["happenings"].append(one.name)
                recorder.event(one.name, value=one.value, attributes=one.attributes)
        print(json.dumps(told), flush=True)
    sampler.close()
    recorder.close()


def tick(ticks: list[int]) -> None:
    """Another thread of the process, which a call into the library must not stop."""
    while True:
        time.sleep(0.01)
        ticks[0] += 1


if __name__ == "__main__":
    main()
