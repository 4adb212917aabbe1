"""Where in the user's own code something was called."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import CodeType, FrameType

_OURS = Path(__file__).resolve().parents[2]
_STRANGE = (
    f"{os.sep}site-packages{os.sep}",
    f"{os.sep}dist-packages{os.sep}",
    f"{os.sep}lib{os.sep}python",
    "<frozen",
    f"{_OURS / 'engine' / 'watching'}{os.sep}",
    f"{_OURS / 'opsuite'}{os.sep}",
)
_DEEPEST = 60
_known: dict[CodeType, bool] = {}


def call_site() -> str:
    """The innermost line of the caller's stack that is the user's own: ``train.py:41``, or ""."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_DEEPEST):
        if frame is None:
            return ""
        code = frame.f_code
        users = _known.get(code)
        if users is None:
            users = _known[code] = not any(part in code.co_filename for part in _STRANGE)
        if users:
            return f"{os.path.basename(code.co_filename)}:{frame.f_lineno}"  # noqa: PTH119 - hot
        frame = frame.f_back
    return ""
