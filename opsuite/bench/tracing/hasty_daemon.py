"""``opsuite collect`` that seals, merges and clears away all the time, so that kills hit that.

Nothing but its thresholds differs from the daemon.
"""

from __future__ import annotations

from functools import partial

from collectors.daemon import collection
from collectors.store import housekeeping
from collectors.store.collector import Collector
from collectors.store.sealing import SealingLimits
from opsuite.cli.main import main

LIMITS = SealingLimits(rows=2_000, age_s=0.2, merge_count=3, merge_rows=200_000)
SEAL_EVERY_S = 0.1
MAINTAIN_EVERY_S = 0.3
READABLE_NS = 10 * 10**9

if __name__ == "__main__":
    vars(collection).update(
        Collector=partial(Collector, limits=LIMITS),
        _SEAL_EVERY_S=SEAL_EVERY_S,
        _MAINTAIN_EVERY_S=MAINTAIN_EVERY_S,
    )
    vars(housekeeping).update(READABLE_NS=READABLE_NS)
    main()
