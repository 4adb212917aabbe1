"""Sends requests at their times, however long the answers to earlier ones take."""

from __future__ import annotations

import asyncio
import resource
import time
from typing import TYPE_CHECKING, Any

import msgspec

from opsuite.serving_load.answer import Answer, Question

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opsuite.serving_load.client import CompletionClient, ServedName


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it.

    Attributes:
        answers: in the order of the questions.
        end_s: when the last answer had ended.
        client_cpu_s: processor time of the client's process.
    """

    answers: tuple[Answer, ...]
    end_s: float
    client_cpu_s: float


async def send(
    client: CompletionClient,
    served: ServedName,
    questions: Sequence[Question],
    *,
    patience_s: float,
) -> Replay:
    """Ask all, at their times since the client's beginning.

    Args:
        questions: in the order of time.
        patience_s: after the last one, until those without an end are given up.
    """
    before_s = time.process_time()
    give_up_s = questions[-1].at_s + patience_s
    asking = []
    for question in questions:
        await asyncio.sleep(question.at_s - client.now_s)
        body = _body(served, question)
        asking.append(asyncio.create_task(client.ask(body, give_up_s=give_up_s)))
    answers = await asyncio.gather(*asking)
    return Replay(
        answers=tuple(answers), end_s=client.now_s, client_cpu_s=time.process_time() - before_s
    )


def allow_connections() -> None:
    """As many open ones as this process may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _body(served: ServedName, question: Question) -> dict[str, Any]:
    body = {
        "model": served.model,
        "prompt": question.prompt,
        "max_tokens": question.max_tokens,
        "temperature": 0,
    }
    return body | ({"ignore_eos": True} if served.ignores_eos else {})
