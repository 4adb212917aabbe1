"""The report that a failing rank leaves for the agent that started it."""

from __future__ import annotations

import json
import os
import time
import traceback
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ErrorHandler

from collectors.errors import OpsuiteError
from engine.peers.memory import PeerLost

# Gloo's words when the rank at the other end is gone: that rank failed first.
_LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")


class ErrorReport(ErrorHandler):
    """torchrun's error file, whole or not there, with what tells the first error from the rest."""

    def record_exception(self, e: BaseException) -> None:
        """Write the file that torchrun's environment names."""
        path = os.environ.get("TORCHELASTIC_ERROR_FILE")
        if not path:
            return
        now_ns = time.time_ns()
        extra = {
            "py_callstack": traceback.format_exc(),
            "timestamp": str(now_ns // 1_000_000_000),
            "time_ns": now_ns,
            "user_error": str(e) if isinstance(e, OpsuiteError) else "",
            "lost_peer": isinstance(e, PeerLost) or any(words in str(e) for words in _LOST_PEER),
        }
        report = {"message": {"message": f"{type(e).__name__}: {e}", "extraInfo": extra}}
        aside = Path(f"{path}.tmp")
        aside.write_text(json.dumps(report), encoding="utf-8")
        aside.replace(path)
