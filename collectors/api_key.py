"""The key that whoever listens asks of its clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


def read_key(path: Path) -> str:
    """The key in a file; UsageError where there is none that can be used."""
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UsageError(
            f"the API key cannot be read: {reason}", where=str(path), remedy="check the file"
        ) from None
    if not key or not key.isascii() or not key.isprintable():
        raise UsageError(
            "the file holds no usable API key",
            where=str(path),
            remedy="write one line of printable ASCII into it",
        )
    return key


def require_key(host: str, key: str | None, *, loopback: bool) -> None:
    """Refuse to listen where others can connect, without a key.

    Raises:
        UsageError: there is none.
    """
    if not loopback and not key:
        raise UsageError(
            f"{host} can be reached from other machines, and no API key is set",
            where="--host",
            remedy="give --api-key-file (or OPSUITE_API_KEY), or listen on 127.0.0.1",
        )
