"""TOML text from plain values (the standard library only reads it)."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_UNICODE_ESCAPE = re.compile(r"[\x7f\ud800-\udfff]")


def toml_key(key: str) -> str:
    """A key, quoted where it must be."""
    return key if _BARE.fullmatch(key) else _text(key)


def toml_value(value: Any) -> str:  # noqa: ANN401 - any TOML value
    """A value on one line: str, int, float, bool, list, or dict (an inline table)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    if isinstance(value, dict):
        pairs = (f"{toml_key(str(k))} = {toml_value(v)}" for k, v in value.items() if v is not None)
        return f"{{{', '.join(pairs)}}}"
    return _text(str(value))


def toml_document(data: Mapping[str, Any]) -> str:
    """A document of nested tables; keys whose value is None are left out."""
    return "\n".join(_table(data, ())).strip() + "\n"


def _table(data: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"[{'.'.join(map(toml_key, path))}]"] if path else []
    inner = {key: value for key, value in data.items() if isinstance(value, dict)}
    for key, value in data.items():
        if key not in inner and value is not None:
            lines.append(f"{toml_key(key)} = {toml_value(value)}")
    for key, value in inner.items():
        lines += ["", *_table(value, (*path, key))]
    return lines


def _float(value: float) -> str:
    if math.isfinite(value):
        return repr(float(value))
    return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")


def _text(value: str) -> str:
    # JSON's escapes are TOML's, but for DEL and lone surrogates.
    clean = value.encode("utf-8", "backslashreplace").decode()
    return _UNICODE_ESCAPE.sub(
        lambda m: f"\\u{ord(m[0]):04x}", json.dumps(clean, ensure_ascii=False)
    )
