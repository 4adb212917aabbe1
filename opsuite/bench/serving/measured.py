"""A replay's figures, defined as those of a simulation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from engine.simulation.serve.life import Life
    from engine.simulation.serve.metrics import ByPrompt
    from engine.simulation.serve.request import Request, Workload
    from opsuite.serving_load.answer import Answer
    from opsuite.serving_load.open_loop import Replay


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Of one workload that was sent to one server.

    Attributes:
        requests, failed: how many; those refused, broken off or not ended in time count in
            ``times`` as if they had ended when the replay did.
        problem: of the first that failed; "" where none did.
        late_s: by which requests were sent after their time, P99.
        client_busy: share of the time in which the client computed: near 1 it was the bottleneck.
    """

    times: ByPrompt
    requests: int
    failed: int
    problem: str
    late_s: float
    client_busy: float


def measured(workload: Workload, replay: Replay) -> Measured:
    """Of a replay of a workload; arrivals are as they were planned."""
    from engine.simulation.serve.metrics import by_prompt

    pairs = list(zip(workload.requests, replay.answers, strict=True))
    problems = [answer.problem for answer in replay.answers if answer.problem]
    late = [answer.sent_s - request.arrival_s for request, answer in pairs]
    return Measured(
        times=by_prompt([_life(*pair) for pair in pairs], replay.end_s),
        requests=len(pairs),
        failed=len(problems),
        problem=problems[0] if problems else "",
        late_s=float(np.percentile(late, 99)),
        client_busy=replay.client_cpu_s / replay.end_s,
    )


def _life(planned: Request, answer: Answer) -> Life:
    """With the server's count of tokens, where it counts."""
    from engine.simulation.serve.life import Life
    from engine.simulation.serve.request import Request

    request = Request(
        arrival_s=planned.arrival_s,
        prompt_tokens=answer.prompt_tokens or planned.prompt_tokens,
        output_tokens=answer.tokens or planned.output_tokens,
    )
    first_s, last_s = (answer.token_s[0], answer.token_s[-1]) if answer.token_s else (None, None)
    return Life(request=request, first_s=first_s, last_s=last_s, finished=not answer.problem)
