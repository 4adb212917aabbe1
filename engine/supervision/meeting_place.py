"""Where a job's driver is: one small file in the run's directory, which all its hosts see."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from collectors.atomic import write_atomically
from engine.supervision.job_spec import DRIVER

if TYPE_CHECKING:
    from pathlib import Path

_ADDRESS = "address.json"


def tell_address(run: Path, address: str, generation: int) -> None:
    """Say where the newest driver listens.

    Raises:
        OSError: the disk refused.
    """
    content = json.dumps({"address": address, "generation": generation})
    write_atomically(run / DRIVER / _ADDRESS, content)


def find_driver(run: Path) -> str:
    """Its address, "host:port".

    Raises:
        OSError: it has not said so yet.
    """
    try:
        found: str = json.loads((run / DRIVER / _ADDRESS).read_text(encoding="utf-8"))["address"]
    except (ValueError, KeyError) as error:
        raise FileNotFoundError(f"no driver has told its address: {error}") from error
    return found
