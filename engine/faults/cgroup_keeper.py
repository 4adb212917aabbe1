"""Takes a control group away when its owner ends or lets go. Run as a script: ``... GROUP``."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

_PATIENCE_S = 60.0  # a process that was killed leaves its group when it is gone


def main(group: Path) -> None:
    """Wait until nobody holds the other end of stdin; whoever is in the group goes back."""
    sys.stdin.buffer.read()
    end = time.monotonic() + _PATIENCE_S
    while group.is_dir() and time.monotonic() < end:
        # A process may end while it is moved, or not be gone yet: then once more.
        with suppress(OSError):
            for process in (group / "cgroup.procs").read_text().split():
                (group.parent / "cgroup.procs").write_text(process)
            group.rmdir()
            return
        time.sleep(0.01)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
