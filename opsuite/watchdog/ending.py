"""How a run that the watchdog owns has ended: by what its ranks said last."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from collectors.errors import OpsuiteError
from collectors.run import RunDirectory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from opsuite.watchdog.voice import Voice
    from playbooks.hang.observation import Observation

_MOST_LINES = 12
_OF_OTHERS = re.compile(
    r"closed by peer|connection reset|connection refused|broken pipe|remote process|timed? ?out"
    r"|DistBackendError|DistNetworkError|NCCL",
    re.IGNORECASE,
)
"""What a rank says that lost another one."""


def conclude(home: Path, run: RunDirectory, ranks: Sequence[Observation], voice: Voice) -> None:
    """Write into the manifest how the run ended, and tell what there is to know of it.

    Nothing is done where somebody else owns the run by now.
    """
    try:
        current = RunDirectory.load(run.path)
        if not current.owned:
            return
        failed = first_failed(ranks)
        status, exit_code = _status(failed)
        current.finish(status, exit_code)
    except OpsuiteError as error:
        voice.say([f"the end of run {run.run_id} is not written down: {error.what}"])
        return
    _tell(home, current, failed, voice)


def _status(failed: Observation | None) -> tuple[str, int]:
    if failed is None:
        return "finished", 0
    return ("interrupted", 130) if _was_interrupted(failed) else ("failed", 1)


def _was_interrupted(failed: Observation) -> bool:
    """By its user."""
    words = "" if failed.board is None else failed.board.last_words
    return words.strip().splitlines()[-1:] == ["KeyboardInterrupt"]


def first_failed(ranks: Sequence[Observation]) -> Observation | None:
    """The rank that took the others with it.

    One that failed by an error of its own: the launcher ends the others then, without a word. Else
    one that fell without a word: the others complain of it.
    """
    failed = [each for each in ranks if each.left is not True]
    return min(failed, key=_order, default=None)


def _order(each: Observation) -> int:
    if each.left is None or each.board is None:
        return 1
    return 2 if _OF_OTHERS.search(each.board.last_words) else 0


def _tell(home: Path, run: RunDirectory, failed: Observation | None, voice: Voice) -> None:
    from opsuite.diagnosing import diagnose_and_tell

    if failed is None:
        voice.say([f"run {run.run_id} has finished"])
        diagnose_and_tell(home, run)
        return
    if _was_interrupted(failed):
        voice.say([f"run {run.run_id} was interrupted"])
        return
    words = "" if failed.board is None else failed.board.last_words
    lines = words.strip().splitlines()[-_MOST_LINES:]
    how = "failed" if failed.left is False else "was killed, or ended without a word"
    voice.say([f"run {run.run_id} has failed: rank {failed.rank} on {failed.host} {how}", *lines])
