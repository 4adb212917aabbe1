"""Errors in the shape of OpenAI's API."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.responses import JSONResponse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel, ValidationError

_KINDS = {
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
}
_LONGEST_NAME = 64  # of a client's own words in an answer


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status, 4xx or 5xx.
        message: for the client; no paths, addresses or internals.
        param: the field to blame.
        code: short name for programs.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers

    @classmethod
    def from_status(cls, status: int, headers: Mapping[str, str] | None = None) -> ApiError:
        """The error of a bare HTTP status."""
        return cls(status, HTTPStatus(status).phrase.lower(), headers=headers)

    @classmethod
    def from_validation(cls, error: ValidationError, body: type[BaseModel]) -> ApiError:
        """The first field that is wrong; 400, as OpenAI answers."""
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if not first["loc"]:
            return cls(400, first["msg"].removeprefix("Value error, "))
        param = str(first["loc"][0])[:_LONGEST_NAME]
        if first["type"] == "extra_forbidden":
            name = ".".join(str(step) for step in first["loc"])[:_LONGEST_NAME]
            return cls(400, f"unknown parameter: {name}", param=param, code="unknown_parameter")
        field = body.model_fields.get(param)
        what = first["msg"].removeprefix("Value error, ")
        if field and field.description and first["type"] != "value_error":
            what = f"must be {field.description}"
        return cls(400, f"{param}: {what}", param=param, code="invalid_value")

    @property
    def body(self) -> dict[str, Any]:
        """``{"error": {"message", "type", "param", "code"}}``."""
        default = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = _KINDS.get(self.status, default)
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        """The whole HTTP response."""
        return JSONResponse(self.body, status_code=self.status, headers=self.headers)
