"""The whole promise in one command: train with a fault, find the fault, serve the result."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from collectors.daemon.access import open_store
from collectors.errors import RunFailed, Unreachable
from collectors.settings import Settings
from opsuite.collecting import start_collecting
from opsuite.serving_process import Announcement, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from engine.training.launcher import LaunchResult
    from opsuite.serving_load.answer import Answer
    from playbooks.diagnosis import Diagnosis

GUILTY_RANK = 1
FIRST_SLOW_STEP, LAST_SLOW_STEP = 60, 110
FAULT = f"slow-rank:rank={GUILTY_RANK},steps={FIRST_SLOW_STEP}-{LAST_SLOW_STEP}"
PROMPTS = (
    "import os\n",
    "def __init__(self",
    "class Error(Exception):\n",
    "    def read(self, size=-1):\n",
    "from collections import ",
    "if __name__ == ",
    "    raise ValueError(",
    "# This module ",
)
MAX_TOKENS = 48
_ANSWER_S = 60.0

# Small enough for two cores, large enough that its completions look like Python.
CONFIG: dict[str, Any] = {
    "name": "demo",
    "model": {"hidden_size": 256, "n_layers": 4, "n_heads": 8, "n_kv_heads": 4, "max_seq_len": 512},
    "data": {"max_bytes": 4_000_000, "seq_len": 128},
    "train": {"steps": 150, "batch_size": 4},
    "parallel": {"tp": 2},
}


@dataclass(frozen=True, kw_only=True)
class RequestTimes:
    """How one request went, as the server recorded it."""

    prompt_tokens: int
    output_tokens: int
    queue_s: float
    ttft_s: float
    tpot_s: float | None

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> RequestTimes:
        """From columns in the order of the fields."""
        return cls(**dict(zip((field.name for field in fields(cls)), row, strict=True)))


@dataclass(frozen=True, kw_only=True)
class Served:
    """What the trained model answered, and how fast; both in the order of ``PROMPTS``."""

    run_id: str
    completions: tuple[Answer, ...]
    requests: tuple[RequestTimes, ...]


def train(home: Path, *, fault: bool, narrate: Callable[[str], None]) -> LaunchResult:
    """Train two tensor-parallel CPU ranks; with ``fault``, a neighbour takes rank 1's core."""
    from collectors.configuration import resolve
    from engine.training.config import RunConfig
    from engine.training.launcher import launch
    from tui.progress import show_progress

    start_collecting(replace(Settings.from_environment(), home=home))
    layers = [("the demo", CONFIG | {"faults": [FAULT] if fault else []})]
    config = resolve(RunConfig, layers).value
    result = launch(
        config,
        home=home,
        command=["opsuite", "demo"],
        narrate=narrate,
        watch=lambda run: show_progress(run, total_steps=config.train.steps),
    )
    if result.exit_code:
        raise RunFailed(result.problem, where=str(result.run.logs))
    return result


def examine(home: Path, run_id: str) -> Diagnosis:
    """What the playbooks say about the run."""
    from playbooks.diagnosis import diagnose

    with open_store(home) as store:
        return diagnose(store, run_id)


def serve_and_ask(home: Path, run_id: str) -> Served:
    """Serve the run's checkpoint and ask it everything at once."""
    with serving(run_id, "--name", "demo", "--threads", "1") as ready:
        completions = asyncio.run(_ask(ready))
    with open_store(home) as store:
        rows = store.rows(
            "SELECT id, prompt_tokens, output_tokens, queue_s, ttft_s, tpot_s FROM requests"
            " WHERE run_id = ?",
            [ready.run],
        )
    recorded = {row[0]: RequestTimes.from_row(row[1:]) for row in rows}
    return Served(
        run_id=ready.run or "",
        completions=completions,
        requests=tuple(recorded[completion.id] for completion in completions),
    )


async def _ask(ready: Announcement) -> tuple[Answer, ...]:
    from opsuite.serving_load.client import CompletionClient

    body = {"model": ready.model, "max_tokens": MAX_TOKENS, "temperature": 0.8, "top_p": 0.95}
    async with CompletionClient(ready.url) as client:
        asking = [
            client.ask(body | {"prompt": prompt, "seed": seed}, give_up_s=_ANSWER_S)
            for seed, prompt in enumerate(PROMPTS)
        ]
        answers = await asyncio.gather(*asking)
    for answer in answers:
        if answer.problem:
            raise Unreachable(answer.problem, where=ready.url)
    return tuple(answers)


def was_injected(home: Path, run_id: str) -> bool:
    """Whether the fault was at work; where ranks cannot be pinned it is skipped."""
    with open_store(home) as store:
        return bool(
            store.rows(
                "SELECT 1 FROM faults WHERE run_id = ? AND name = 'fault.begin' LIMIT 1", [run_id]
            )
        )


def names_a_rank(diagnosis: Diagnosis) -> bool:
    """Whether somebody is blamed; a crowded host is nobody's fault."""
    return any(finding.ranks for finding in diagnosis.findings)


def found_the_fault(diagnosis: Diagnosis, tolerance: int = 10) -> bool:
    """Whether exactly the guilty rank is named, with its steps within ``tolerance`` at each end."""
    named = [finding for finding in diagnosis.findings if finding.ranks]
    return [finding.ranks for finding in named] == [(GUILTY_RANK,)] and (
        abs(named[0].first_step - FIRST_SLOW_STEP) <= tolerance
        and abs(named[0].last_step - LAST_SLOW_STEP) <= tolerance
    )
