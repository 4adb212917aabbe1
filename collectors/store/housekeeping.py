"""What the store's disk is kept free of, and what the disk is told to keep."""

from __future__ import annotations

import logging
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.store.parquet import sync

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from collectors.store.tail import Tail

_log = logging.getLogger("opsuite")
READABLE_NS = 60 * 10**9
"""How long a file stays after the last snapshot that names it: longer than any query may take."""
ORPHAN_AGE_NS = 3600 * 10**9


class Housekeeping:
    """Removes files that nothing refers to any more, after a grace; syncs the spools."""

    def __init__(self, parquet: Path, wall_ns: Callable[[], int]) -> None:
        self._parquet = parquet
        self._wall_ns = wall_ns
        self._retired: deque[tuple[int, Path]] = deque()
        self._synced_ns = 0

    def retire(self, paths: Iterable[Path | str]) -> None:
        """Remove files when nobody reads them any more."""
        now = self._wall_ns()
        self._retired.extend((now, Path(path)) for path in paths)

    def remove_retired(self) -> None:
        """Remove the files whose time has come."""
        now = self._wall_ns()
        while self._retired and not 0 <= now - self._retired[0][0] < READABLE_NS:
            _, path = self._retired.popleft()
            path.unlink(missing_ok=True)

    def sync_spools(self, tails: Iterable[Tail]) -> None:
        """Have the disk keep what was recorded: from here on it survives a loss of power."""
        since, self._synced_ns = self._synced_ns, self._wall_ns()
        for tail in tails:
            if tail.moved_ns < since:
                continue
            names = {name for one in tail.generations() for name in list(one.positions)}
            for name in names:
                try:
                    sync(tail.run.spool / name)
                except FileNotFoundError:  # removed with its run
                    continue

    def remove_orphans(self, known: Iterable[str]) -> None:
        """Remove sealed files that no seal names: a crash came before their commit.

        Of a run of which no seal is left they are not removed: the seals are what is missing there.
        """
        kept = set(known)
        sealed = {path.split("/")[1] for path in kept}
        now = self._wall_ns()
        for path in self._parquet.glob("*/run=*/host=*/hour=*/*"):
            relative = path.relative_to(self._parquet).as_posix()
            if path.parts[-4] not in sealed and path.suffix == ".parquet":
                _log.warning("no seal is left that names %s", path)
            elif relative not in kept and now - path.stat().st_mtime_ns > ORPHAN_AGE_NS:
                _log.info("removed %s, which no seal names", path)
                path.unlink(missing_ok=True)
