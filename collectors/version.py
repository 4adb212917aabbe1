"""Which opsuite this is."""

from __future__ import annotations

from importlib import metadata


def own_version() -> str:
    """The version that is installed here."""
    try:
        return metadata.version("opsuite")
    except metadata.PackageNotFoundError:
        return "unknown"
