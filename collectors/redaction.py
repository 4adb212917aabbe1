"""Secrets are taken out before anything is stored."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

REDACTED = "***"
_ALWAYS = {"password", "passwd", "passphrase", "secret", "secrets", "credential", "credentials"}
_LAST = {"key", "apikey", "token"}
_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
_IN_URL = re.compile(r"(://[^/\s:@]*:)[^/\s@]+@")

_ASSIGNED = re.compile(
    r"""(?<![A-Za-z0-9_.-])([A-Za-z_][A-Za-z0-9_.-]{0,80})(["']?\s*[=:]\s*["']?)([^\s"',;&}\])]{4,})"""
)
_BEARER = re.compile(r"\b(Bearer|Basic)(\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_KNOWN = re.compile(r"\b(?:sk-|hf_|gh[pousr]_|glpat-|xox[abpr]-|AKIA)[A-Za-z0-9_-]{8,}")


def is_secret(name: str) -> bool:
    """Whether a value of that name is one to hide: ``api_key``, ``HF_TOKEN``, ``db-password``.

    Counts of tokens (``max_tokens``) and keys that say whose they are (``key_heads``) are none.
    """
    words = [word.lower() for word in _WORD.findall(name)]
    return bool(words) and (words[-1] in _LAST or not _ALWAYS.isdisjoint(words))


def redact(value: Any, name: str = "") -> Any:  # noqa: ANN401 - any configuration value
    """A copy of ``value`` without texts under secret names, and without secrets in other texts."""
    if isinstance(value, dict):
        return {key: redact(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact(inner, name) for inner in value]
    if isinstance(value, str):
        return REDACTED if value and is_secret(name) else redact_text(value)
    return value


def redact_command(command: Sequence[str]) -> list[str]:
    """A command line without secrets: ``--api-key X``, ``--api-key=X``, ``--set a.token=X``."""
    shown: list[str] = []
    for argument in command:
        name, equals, _ = argument.partition("=")
        before = shown[-1] if shown else ""
        if before.startswith("-") and "=" not in before and is_secret(before):
            shown.append(REDACTED)
        elif equals and " " not in name and is_secret(name):
            shown.append(f"{name}={REDACTED}")
        else:
            shown.append(redact(argument))
    return shown


def redact_text(text: str) -> str:
    """A text, such as a log, without what looks like a secret in it.

    That is: values of secret names (``API_KEY=...``, ``"token": "..."``; plain numbers are none),
    authorization headers, passwords in URLs, and keys of well-known forms.
    """
    text = _KNOWN.sub(REDACTED, _BEARER.sub(rf"\1\2{REDACTED}", text))
    text = _ASSIGNED.sub(_hide_assigned, text)
    return _IN_URL.sub(rf"\1{REDACTED}@", text)


def _hide_assigned(found: re.Match[str]) -> str:
    name, between, value = found.groups()
    secret = is_secret(name) and not value.replace(".", "").isdigit()
    return f"{name}{between}{REDACTED}" if secret else found[0]
