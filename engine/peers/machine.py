"""Whether this machine can share memory between ranks as the others here do."""

from __future__ import annotations

import platform
import sys


def unusable_here() -> str:
    """Why this machine cannot share memory so; "" where it can."""
    if sys.platform != "linux":
        return "needs Linux"
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"needs stores that are seen in their order, as on x86-64, not {platform.machine()}"
    return ""
