"""Ranks as processes, through torchrun's own agent."""

from __future__ import annotations

import logging
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from collectors.clock import host_name
from collectors.stop_request import heeded
from engine.training.failure import (
    Finished,
    Interrupted,
    ObservedFailure,
    RankFailure,
    explain,
    first_failure,
    log_path,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

_MONITOR_INTERVAL_S = 0.1
_SHUTDOWN_TIMEOUT_S = 5
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class ErrorFiles(LogsSpecs):
    """Where ranks report errors, which is torchrun's protocol; their logs they open themselves."""

    def __init__(self, directory: Path) -> None:
        super().__init__(log_dir=str(directory))
        self._directory = directory

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Say where each local rank writes its report, and tell the rank so."""
        errors: dict[int, str] = {}
        for local_rank, env in envs.items():
            errors[local_rank] = str(self._directory / f"rank{env['RANK']}.error.json")
            env["TORCHELASTIC_ERROR_FILE"] = errors[local_rank]
        unredirected = dict.fromkeys(envs, "")
        return LogsDest(
            stdouts=unredirected,
            stderrs=unredirected,
            tee_stdouts={},
            tee_stderrs={},
            error_files=errors,
            filtered_stdout="",
            filtered_stderr="",
        )

    @property
    def root_log_dir(self) -> str:
        """Where the reports lie."""
        return str(self._directory)


def run_ranks(
    run: Path, *, run_id: str, logs: Path, world_size: int, worker: str
) -> Finished | Interrupted | RankFailure:
    """Start all ranks of the job in ``run`` on this host and wait for their end.

    Args:
        worker: the module that each of them runs.
    """
    logs.mkdir(parents=True, exist_ok=True)
    for stale in logs.glob("rank*.error.json"):
        stale.unlink()
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=world_size,
        run_id=run_id,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        # Of one that we were started to ignore the agent would end.
        signals_to_handle=",".join(each.name for each in heeded(_SIGNALS)),
        **common(logs),
    )
    with _own_signals():
        outcome = supervise(config, sys.executable, "-P", "-m", worker, str(run))
    if isinstance(outcome, ObservedFailure):
        return explain(outcome, host=host_name(), log=log_path(logs, outcome.rank))
    return outcome


def common(errors: Path) -> dict[str, Any]:
    """What every agent of ours is told; ranks' reports go to the directory ``errors``."""
    return {
        "role": "trainer",
        "max_restarts": 0,
        "monitor_interval": _MONITOR_INTERVAL_S,
        "logs_specs": ErrorFiles(errors),
        "shutdown_timeout": _SHUTDOWN_TIMEOUT_S,
    }


def supervise(
    config: LaunchConfig, entry: str | Callable[..., None], *arguments: str
) -> Finished | Interrupted | ObservedFailure:
    """Have torchrun's agent start this host's ranks, and wait for their end.

    Args:
        entry: a program, or a function that each rank calls.

    Returns:
        Of several failed ranks, the one that was the cause.
    """
    try:
        with _quiet():
            elastic_launch(config, entry)(*arguments)
    except ChildFailedError as error:
        return first_failure([_observe(rank, failure) for rank, failure in error.failures.items()])
    except SignalException as error:
        return Interrupted(signal=error.sigval.name)
    except KeyboardInterrupt:
        return Interrupted(signal=signal.SIGINT.name)
    return Finished()


def _observe(rank: int, failure: ProcessFailure) -> ObservedFailure:
    message: Any = failure.message
    report = message.get("extraInfo", {}) if isinstance(message, dict) else {}
    return ObservedFailure(
        rank=rank,
        exit_code=failure.exitcode,
        noticed_s=failure.timestamp,
        reported_ns=report.get("time_ns"),
        user_error=report.get("user_error", ""),
        traceback=report.get("py_callstack", ""),
        lost_peer=report.get("lost_peer", False),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """The agent's log lines are for its developers: we say ourselves what happened."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _own_signals() -> Iterator[None]:
    """The agent replaces signal handlers; afterwards ours are back."""
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
