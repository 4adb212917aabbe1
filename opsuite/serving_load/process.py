"""The client as a process of its own, so that whoever measures takes no time from it.

A plan comes as JSON on stdin; what came of it goes as JSON to stdout.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from time import perf_counter

import msgspec

from collectors.errors import RunFailed
from collectors.settings import Settings
from opsuite.serving_load.answer import Question
from opsuite.serving_load.client import CompletionClient, ServedName
from opsuite.serving_load.open_loop import Replay, allow_connections, send

_LEAD_S = 0.2  # until the first request: by then the loop runs


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be sent where; the key, if there is one, is in the environment.

    Attributes:
        patience_s: after the last question, until answers without an end are given up.
    """

    url: str
    served: ServedName
    questions: tuple[Question, ...]
    patience_s: float


def replay(plan: Plan) -> Replay:
    """Send a plan's questions from a process of its own.

    Raises:
        RunFailed: the client's process ended without a result.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-m", "opsuite.serving_load.process"],
        input=msgspec.json.encode(plan),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        why = done.stderr[-600:].decode(errors="replace")
        raise RunFailed(f"the client ended with {done.returncode}: {why}", where=plan.url)
    return msgspec.json.decode(done.stdout, type=Replay)


def main() -> None:
    """Of the process."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    allow_connections()
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(_replay(plan))))


async def _replay(plan: Plan) -> Replay:
    key = Settings.from_environment().api_key
    client = CompletionClient(plan.url, api_key=key, start=perf_counter() + _LEAD_S)
    async with client:
        return await send(client, plan.served, plan.questions, patience_s=plan.patience_s)


if __name__ == "__main__":
    main()
