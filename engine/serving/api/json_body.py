"""A request's body: bounded in size and time, and JSON that means one thing only."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from engine.serving.api.error import ApiError
from engine.serving.api.protocol import MAX_BODY_BYTES

if TYPE_CHECKING:
    from starlette.requests import Request

_TIMEOUT_S = 30.0
_MOST_KEYS = 2048  # of one object; each that is not known would be an error of its own

Parsed = TypeVar("Parsed", bound=BaseModel)


async def read_body(request: Request) -> bytes:
    """All of it, before anything looks into it.

    Raises:
        ApiError: it is no JSON by its type, too large, or does not arrive.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # also what keeps web pages of other origins out
        raise ApiError(415, "send the body as Content-Type: application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise ApiError(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    except TimeoutError:
        raise ApiError(408, "the body did not arrive in time") from None
    return bytes(body)


def parse_body(raw: bytes, kind: type[Parsed]) -> Parsed:
    """Read strictly: whole characters, no key twice in an object, no NaN.

    Raises:
        ApiError: it is no such JSON, or no such body.
    """
    try:
        value = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
        if b"\\ud" in raw.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeError:
        raise ApiError(400, "the body is not UTF-8, or escapes half a surrogate pair") from None
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply") from None
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise ApiError.from_validation(error, kind) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > _MOST_KEYS:
        raise ValueError(f"an object has more than {_MOST_KEYS} keys")
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
