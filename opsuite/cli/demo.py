"""``opsuite demo``: the first whole run."""

from __future__ import annotations

from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opsuite.cli.exit_codes import ExitCode
from opsuite.output import narrate, print_data, print_json

if TYPE_CHECKING:
    from opsuite.demo import Served
    from playbooks.diagnosis import Diagnosis


def demo(
    fault: Annotated[
        bool, typer.Option(help="Let a real CPU hog take rank 1's core in steps 60-110.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Train with a fault, find the guilty rank, serve the result.

    Exits with 1 where the diagnosis is not what was injected.
    """
    from collectors.settings import Settings
    from opsuite.demo import (
        FAULT,
        examine,
        found_the_fault,
        names_a_rank,
        serve_and_ask,
        train,
        was_injected,
    )
    from opsuite.extras import require_engine
    from tui.findings import render_diagnosis

    require_engine()
    home = Settings.from_environment().home
    wish = f", with the fault {FAULT}" if fault else ""
    narrate(f"[1/3] training on two CPU ranks (tensor parallel){wish}")
    launched = train(home, fault=fault, narrate=narrate)
    run_id = launched.run.run_id

    narrate(f"\n[2/3] opsuite diagnose {run_id}")
    diagnosis = examine(home, run_id)
    injected = was_injected(home, run_id)
    right = found_the_fault(diagnosis) if injected else not names_a_rank(diagnosis)
    if not json:
        print_data(render_diagnosis(diagnosis))

    narrate(f"\n[3/3] opsuite serve {run_id}, and eight requests at once")
    served = serve_and_ask(home, run_id)
    if json:
        print_json(_as_json(run_id, diagnosis, served, injected=injected))
    else:
        print_data(_render_served(served))
        print_data(_NEXT.format(run=run_id, server=served.run_id))
    if not right:
        narrate("the diagnosis is not what was injected: see `opsuite doctor` and the evidence")
        raise typer.Exit(ExitCode.FINDINGS_OR_FAILED)


_NEXT = """
what to type next
  opsuite runs show {run}
  opsuite query "SELECT step, rank, own_s, blocked_s FROM steps WHERE run_id = '{run}'"
  opsuite query "SELECT id, ttft_s, tpot_s FROM requests WHERE run_id = '{server}'"
  opsuite serve {run}
  opsuite launch --example > run.toml"""


def _render_served(served: Served) -> str:
    """The requests as a table, then one completion."""
    from opsuite.demo import PROMPTS
    from tui.table import render_table

    rows = [
        (
            repr(prompt),
            request.prompt_tokens,
            request.output_tokens,
            f"{request.queue_s * 1e3:.1f}",
            f"{request.ttft_s * 1e3:.1f}",
            "n/a" if request.tpot_s is None else f"{request.tpot_s * 1e3:.1f}",
        )
        for prompt, request in zip(PROMPTS, served.requests, strict=True)
    ]
    columns = ["prompt", "prompt tokens", "output tokens", "queued ms", "TTFT ms", "TPOT ms"]
    tpots = [request.tpot_s for request in served.requests if request.tpot_s is not None]
    medians = (
        f"median TTFT {median(r.ttft_s for r in served.requests) * 1e3:.1f} ms,"
        f" TPOT {median(tpots) * 1e3:.1f} ms"
    )
    return "\n".join(
        [
            render_table(columns, rows),
            medians,
            f"\none completion of {PROMPTS[1]!r}:",
            PROMPTS[1] + served.completions[1].text,
        ]
    )


def _as_json(
    run_id: str, diagnosis: Diagnosis, served: Served, *, injected: bool
) -> dict[str, Any]:
    return {
        "run": run_id,
        "fault_injected": injected,
        "diagnosis": diagnosis.to_json(),
        "server": served.run_id,
        "requests": [asdict(request) for request in served.requests],
        "completions": [
            {
                "id": answer.id,
                "text": answer.text,
                "tokens": answer.tokens,
                "ttft_s": answer.ttft_s,
                "tpot_s": answer.tpot_s,
            }
            for answer in served.completions
        ],
    }
