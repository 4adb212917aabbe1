"""A self-check, as a process of its own: one that hangs or crashes is an answer, too."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress

from engine.resilience.messages import Check, Checked

# What hangs is unsound: the grace is long enough for a sound host that others keep busy.
_PROFILES = {False: ("--budget-s", "3", "--grace-s", "25"), True: ("--full", "--grace-s", "60")}
_LIMITS_S = {False: 60.0, True: 280.0}
_MODULE = "playbooks.checks"  # started, not imported: it is no part of the engine


async def examine(order: Check, host: str) -> Checked:
    """Run the quick or the full suite of self-checks on this host."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", _MODULE, "--json", *_PROFILES[order.thorough]),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    limit = _LIMITS_S[order.thorough]
    try:
        out, _ = await asyncio.wait_for(process.communicate(), limit)
    except TimeoutError:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        return Checked(
            host=host, number=order.number, sound=False, detail=f"no end within {limit:g} s"
        )
    return _verdict(order, host, out, process.returncode)


def _verdict(order: Check, host: str, out: bytes, exit_code: int | None) -> Checked:
    """A slow host is no unsound one: whether it is too slow is seen while it trains."""
    try:
        found = json.loads(out)
        sound = None if found["verdict"] == "skipped" else bool(found["sound"])
        bad = [each for each in found["results"] if each["verdict"] not in ("ok", "skipped")]
        detail = "; ".join(
            f"{e['name']} {e['subject']}: {e['verdict']} {e.get('detail', '')}".strip() for e in bad
        )[:500]
    except (ValueError, KeyError, TypeError):
        sound, detail = None, f"the self-checks ended with {exit_code} and no verdict"
    return Checked(host=host, number=order.number, sound=sound, detail=detail)
