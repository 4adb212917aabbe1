"""Runs are collected from their beginning: whoever starts one makes sure of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.errors import OpsuiteError
from opsuite.output import narrate

if TYPE_CHECKING:
    from collectors.settings import Settings


def start_collecting(settings: Settings) -> None:
    """Have the collector of the home running, unless OPSUITE_COLLECT=0; a failure is only told.

    What a run records lies in its spool in any case, and is read when somebody asks for it.
    """
    if not (settings.collect and settings.record):
        return
    from collectors.daemon.lifecycle import ensure_daemon

    try:
        ensure_daemon(settings.home)
    except OpsuiteError as error:
        narrate(f"warning: nobody collects in the background: {error}")
