"""stdout is data, stderr is narration."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import Any


def print_data(text: str) -> None:
    """Write data for people or programs to stdout."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def print_json(data: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write one JSON document to stdout; NaN and infinities are refused."""
    print_data(json.dumps(data, indent=2, allow_nan=False))


def narrate(text: str) -> None:
    """Tell the user what is going on, on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def hush() -> None:
    """Narrate no more: who read it has gone away."""
    with suppress(BrokenPipeError):  # what it could not write before, it tries to write once more
        sys.stderr.close()
