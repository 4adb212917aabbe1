"""OpenAI's API over HTTP."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from engine.serving.api.chat import ChatPlan
from engine.serving.api.chat_protocol import ChatRequest
from engine.serving.api.completion_protocol import CompletionRequest
from engine.serving.api.completions import CompletionPlan
from engine.serving.api.error import ApiError
from engine.serving.api.event_stream import EventStream, unless_disconnected
from engine.serving.api.json_body import parse_body, read_body
from engine.serving.api.metrics import MEDIA_TYPE
from engine.serving.api.openapi import openapi_document
from engine.serving.api.protocol import Health, ModelCard, ModelList
from engine.serving.api.streams import ClosingError, Streams, TooBusyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.serving.api.metrics import Metrics
    from engine.serving.api.plan import Plan
    from engine.serving.api.served_model import ServedModel


def create_api(
    model: ServedModel,
    streams: Streams,
    metrics: Metrics,
    **options: Any,  # noqa: ANN401
) -> FastAPI:
    """The application; ``options`` are FastAPI's (lifespan, middleware).

    Its generated documentation is off: the pages would load scripts from elsewhere.
    """
    app = FastAPI(openapi_url=None, redirect_slashes=False, **options)
    _tell_of_the_server(app, model, streams, metrics)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _answer(request, streams, lambda raw: _completion(raw, model, streams))

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await _answer(request, streams, lambda raw: _chat(raw, model, streams))

    _answer_errors(app)
    return app


def _tell_of_the_server(
    app: FastAPI, model: ServedModel, streams: Streams, metrics: Metrics
) -> None:
    card = ModelCard(id=model.name, created=int(time.time()), max_model_len=model.max_len)
    document = openapi_document(model.name)

    @app.get("/health")
    async def health() -> Health:
        if not streams.ready:
            raise ClosingError
        if not streams.answers:
            raise ApiError(503, "the engine is being replaced, or hangs", code="engine_silent")
        return Health()

    @app.get("/metrics")
    async def metrics_text() -> Response:
        return Response(metrics.text(), media_type=MEDIA_TYPE)

    @app.get("/openapi.json")
    async def openapi() -> Response:
        return JSONResponse(document)

    @app.get("/v1/models")
    async def models() -> ModelList:
        return ModelList(data=[card])

    @app.get("/v1/models/{name:path}")
    async def model_card(name: str) -> ModelCard:
        _require_model(name, model)
        return card


def _completion(raw: bytes, model: ServedModel, streams: Streams) -> Plan:
    body = parse_body(raw, CompletionRequest)
    _require_model(body.model, model)
    return CompletionPlan(body, model, streams.next_number)


def _chat(raw: bytes, model: ServedModel, streams: Streams) -> Plan:
    body = parse_body(raw, ChatRequest)
    _require_model(body.model, model)
    return ChatPlan(body, model, streams.next_number)


def _require_model(name: str, model: ServedModel) -> None:
    if name != model.name:
        raise ApiError(
            404, f"there is no model of that name; {model.name!r} is served", code="model_not_found"
        )


async def _answer(request: Request, streams: Streams, plan_of: Callable[[bytes], Plan]) -> Response:
    raw = await read_body(request)
    # Off the loop: parsing and tokenizing a long prompt takes a while.
    plan = await asyncio.to_thread(plan_of, raw)
    if plan.body.stream:
        return EventStream(plan, streams)
    whole = await unless_disconnected(request.receive, _whole(plan, streams))
    if whole is None:
        raise ClientDisconnect
    return Response(whole, media_type="application/json")


async def _whole(plan: Plan, streams: Streams) -> bytes:
    parts = plan.parts()
    async with streams.open(plan.requests, plan.body.stops) as stream:
        async for delta in stream:
            parts[plan.index(delta)].add(delta)
    usage = plan.usage(sum(part.tokens for part in parts))
    return plan.whole(parts, usage).model_dump_json().encode()


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
