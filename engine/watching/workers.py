"""Processes that work for a rank and are none."""

from __future__ import annotations

import multiprocessing

from torch.utils.data import get_worker_info


def is_worker() -> bool:
    """Whether this process is a data loader's, or only imports the script of the one it is from.

    That is what a child of multiprocessing does first, unless it was forked: a script without
    ``if __name__ == "__main__"`` is run anew in it. Ranks that torch's ``mp.spawn`` starts do the
    same, and train afterwards: they are none.
    """
    # The mark by which multiprocessing itself tells scripts that they lack that line.
    imports: bool = getattr(multiprocessing.current_process(), "_inheriting", False)
    return imports or get_worker_info() is not None
