"""Optional parts of opsuite, and what to say where one is not installed."""

from __future__ import annotations

from importlib.util import find_spec

from collectors.errors import MissingExtra

_ENGINE = ("torch", "safetensors", "tokenizers", "msgspec", "fastapi", "uvicorn", "httpx")


def require_engine() -> None:
    """Make sure that what trains and serves is installed; importing none of it.

    Raises:
        MissingExtra: something is not.
    """
    missing = [name for name in _ENGINE if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"this needs {', '.join(missing)}, not installed here",
            remedy="pip install 'opsuite[engine]'",
        )
