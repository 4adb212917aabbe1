"""Choices on disk: a file for each product, device and number of ranks.

A file is replaced whole, so that readers and writers need not know of each other.
"""

from __future__ import annotations

import hashlib
import json
import platform
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from collectors.atomic import write_atomically
from engine.overlap.choices import Choice, Choices, Sizes

if TYPE_CHECKING:
    from collections.abc import Iterator

_VERSION = 1
_MOST_FILES = 10_000
_MOST_BYTES = 10_000


class TuningCache:
    """The choices of one kind of device.

    Args:
        home: OPSUITE_HOME; they are in its ``tuning``.
        arch: the device, as :func:`arch_of` calls it.
        world: ranks in a group.
    """

    def __init__(self, home: Path, *, arch: str, world: int) -> None:
        self._directory = home / "tuning"
        self._of: dict[str, Any] = {"arch": arch, "world": world, "with": _libraries()}

    def write(self, sizes: Sizes, choice: Choice, seconds: float) -> None:
        """Keep a choice, in place of an earlier one.

        Raises:
            StorageError: the disk refused.
        """
        document = {
            "version": _VERSION,
            "of": self._of,
            "sizes": asdict(sizes),
            "choice": choice.to_json(),
            "seconds": seconds,
        }
        key = json.dumps([self._of, asdict(sizes)], sort_keys=True).encode()
        name = hashlib.sha256(key).hexdigest()[:24]
        self._directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self._directory / f"{name}.json", json.dumps(document, indent=1))

    def read(self) -> tuple[Choices, list[str]]:
        """All choices for this device with these libraries; and files that are no such things."""
        damaged: list[str] = []
        return Choices.from_pairs(self._pairs(damaged)), damaged

    def _pairs(self, damaged: list[str]) -> Iterator[tuple[Sizes, Choice]]:
        for path in sorted(self._directory.glob("*.json"))[:_MOST_FILES]:
            try:
                with path.open("rb") as file:
                    document = json.loads(file.read(_MOST_BYTES))
                if document["version"] != _VERSION or document["of"] != self._of:
                    continue
                pair = Sizes(**document["sizes"]), Choice.from_json(document["choice"])
            except (OSError, ValueError, KeyError, TypeError):
                damaged.append(str(path))
                continue
            yield pair


def arch_of(device: torch.device) -> str:
    """What a device is, as far as speed goes."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"sm_{major}{minor} {torch.cuda.get_device_name(device)}"
    return f"{platform.machine()} {_processor()} x{torch.get_num_threads()}"


def _processor() -> str:
    with suppress(OSError):  # only Linux has it
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _libraries() -> dict[str, str]:
    """Other versions of these have other speeds."""
    found = {"torch": str(torch.__version__)}
    with suppress(PackageNotFoundError):
        found["triton"] = version("triton")
    return found
