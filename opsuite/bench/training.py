"""A training run that a benchmark measures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from collectors.errors import RunFailed
from opsuite.bench.home import bench_home

if TYPE_CHECKING:
    from collectors.run import RunDirectory
    from engine.training.config import RunConfig


def trained_run(config: RunConfig, **how: Any) -> RunDirectory:  # noqa: ANN401
    """Train to the end; ``how`` goes to :func:`engine.training.launcher.launch`.

    Raises:
        KeyboardInterrupt: a signal ended the run, and so the benchmark.
        RunFailed: a rank failed.
    """
    from engine.training.launcher import INTERRUPTED, launch

    given = {"home": bench_home(), "command": ["opsuite", "bench"], "narrate": lambda _: None}
    result = launch(config, **{**given, **how})
    if result.status == INTERRUPTED:
        raise KeyboardInterrupt(result.problem)
    if result.exit_code:
        raise RunFailed(result.problem, where=str(result.run.logs))
    return result.run
