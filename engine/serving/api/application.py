"""OpenAI's completions API over HTTP."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from engine.serving.api.completions import CompletionPlan
from engine.serving.api.error import ApiError
from engine.serving.api.event_stream import EventStream, unless_disconnected
from engine.serving.api.protocol import MAX_BODY_BYTES, CompletionRequest, ModelCard, ModelList
from engine.serving.api.streams import ClosingError, Streams, TooBusyError

if TYPE_CHECKING:
    from engine.serving.api.protocol import Completion
    from engine.serving.api.served_model import ServedModel

_BODY_TIMEOUT_S = 30.0
_log = logging.getLogger(__name__)


def create_api(model: ServedModel, streams: Streams, **options: Any) -> FastAPI:  # noqa: ANN401
    """The application; ``options`` are FastAPI's (lifespan, middleware).

    Its generated documentation is off: the pages would load scripts from elsewhere.
    """
    app = FastAPI(openapi_url=None, redirect_slashes=False, **options)
    created = int(time.time())

    @app.get("/health")
    async def health() -> Response:
        if not streams.ready:
            raise ClosingError
        return JSONResponse({"status": "ok"})

    @app.get("/v1/models")
    async def models() -> ModelList:
        return ModelList(data=[ModelCard(id=model.name, created=created)])

    @app.get("/v1/models/{name:path}")
    async def model_card(name: str) -> ModelCard:
        _require_model(name, model)
        return ModelCard(id=model.name, created=created)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        raw = await _read_json_body(request)
        # Off the loop: parsing and tokenizing a long prompt takes a while.
        body, plan = await asyncio.to_thread(_plan, raw, model, streams)
        if body.stream:
            options = body.stream_options
            return EventStream(plan, streams, usage=bool(options and options.include_usage))
        whole = await unless_disconnected(request.receive, _complete(plan, streams))
        if whole is None:
            raise ClientDisconnect
        return Response(whole.model_dump_json(), media_type="application/json")

    _answer_errors(app)
    return app


async def _read_json_body(request: Request) -> bytes:
    """The body, bounded in size and time before anything looks into it."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # also what keeps web pages of other origins out
        raise ApiError(415, "send the body as Content-Type: application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise ApiError(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    except TimeoutError:
        raise ApiError(408, "the body did not arrive in time") from None
    return bytes(body)


def _plan(
    raw: bytes, model: ServedModel, streams: Streams
) -> tuple[CompletionRequest, CompletionPlan]:
    try:
        body = CompletionRequest.model_validate_json(raw)
    except ValidationError as error:
        raise ApiError.from_validation(error, CompletionRequest) from None
    _require_model(body.model, model)
    return body, CompletionPlan(body, model, streams.next_number)


def _require_model(name: str, model: ServedModel) -> None:
    if name != model.name:
        raise ApiError(
            404, f"there is no model of that name; {model.name!r} is served", code="model_not_found"
        )


async def _complete(plan: CompletionPlan, streams: Streams) -> Completion:
    choices = plan.opening()
    tokens = {}
    async with streams.open(plan.requests, plan.stop) as stream:
        async for delta in stream:
            new = plan.choice(delta)
            whole = choices[new.index]
            whole.text += new.text
            whole.finish_reason = new.finish_reason
            tokens[delta.number] = delta.tokens
    return plan.completion(choices, plan.usage(sum(tokens.values())))


def _answer_errors(app: FastAPI) -> None:
    """Every error in OpenAI's shape, and without internals."""

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def not_routed(_: Request, error: HTTPException) -> Response:
        return ApiError.from_status(error.status_code, error.headers).response()

    @app.exception_handler(TooBusyError)
    async def too_busy(_: Request, __: TooBusyError) -> Response:
        headers = {"Retry-After": "1"}
        return ApiError(
            429, "too many requests are waiting", code="queue_full", headers=headers
        ).response()

    @app.exception_handler(ClosingError)
    async def closing(_: Request, __: ClosingError) -> Response:
        return ApiError(503, "the server is stopping", code="stopping").response()

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody is there to read it

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> Response:
        return ApiError(500, "internal server error").response()
