"""The warm process beside an executor: ``python -P -m engine.supervision.ranks_process``.

It has imported what ranks need before there are any, and keeps a template process that has too:
ranks are forked from that (multiprocessing's forkserver), and begin where a cold one would have
spent seconds importing. For each line on its standard input it has torchrun's agent run this host's
ranks of one attempt, and answers with a line that says how they ended.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.distributed.launcher.api import LaunchConfig

from engine.lifeline import end_with_parent
from engine.supervision.rank import run_rank
from engine.supervision.task import Task
from engine.training.agent import common, supervise
from engine.training.failure import Finished, Interrupted, explain, log_path

if TYPE_CHECKING:
    from typing import TextIO

_TEMPLATE = [
    "torch.distributed.elastic.multiprocessing.api",
    "engine.supervision.rank",
    "engine.supervision.reporter",
    "engine.training.session",
]


def main() -> None:
    """Answer line after line, until there are no more."""
    end_with_parent()
    # Ranks and libraries write to standard output too: ours is kept apart.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's is for who started all
    _warm_up()
    _answer(answers, {"kind": "ready"})
    for line in sys.stdin:
        _answer(answers, {"kind": "ended", **_run(Task(**json.loads(line)))})


def _warm_up() -> None:
    multiprocessing.set_forkserver_preload(_TEMPLATE)
    forkserver.ensure_running()


def _answer(answers: TextIO, told: dict[str, Any]) -> None:
    answers.write(json.dumps(told) + "\n")
    answers.flush()


def _run(task: Task) -> dict[str, Any]:
    errors = Path(task.errors)
    errors.mkdir(parents=True, exist_ok=True)
    config = LaunchConfig(
        min_nodes=task.hosts,
        max_nodes=task.hosts,
        nproc_per_node=task.ranks,
        run_id=task.name,
        rdzv_backend="static",
        rdzv_endpoint=task.meet,
        rdzv_configs={"rank": task.host, "timeout": task.meet_s},
        local_addr=task.address,
        start_method="forkserver",
        signals_to_handle="SIGTERM",
        **common(errors),
    )
    try:
        outcome = supervise(config, run_rank, task.run, task.job)
    except Exception as error:  # noqa: BLE001 - the agent itself failed: said, and tried again
        return {"well": False, "what": f"{type(error).__name__}: {error}"[:500]}
    if isinstance(outcome, Finished):
        return {"well": True}
    if isinstance(outcome, Interrupted):
        return {"well": False, "what": f"the agent was ended by {outcome.signal}"}
    failure = explain(
        outcome, host=task.address, log=log_path(Path(task.run) / "logs", outcome.rank)
    )
    first = failure.user_error.strip().splitlines()[:1]
    last = (failure.traceback or failure.tail).strip().splitlines()[-1:]
    [what] = first or last or [f"exit code {failure.exit_code}"]
    return {
        "well": False,
        "rank": failure.rank,
        "signal": failure.signal or "",
        "what": what[:500],
        "lost_peer": outcome.lost_peer,
    }


if __name__ == "__main__":
    main()
