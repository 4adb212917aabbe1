"""The API described as OpenAPI 3.1, made of the very models that bodies are checked against."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from engine.serving.api.chat_protocol import ChatChunk, ChatCompletion, ChatRequest
from engine.serving.api.completion_protocol import Completion, CompletionRequest
from engine.serving.api.protocol import ErrorBody, Health, ModelCard, ModelList

_READ = (CompletionRequest, ChatRequest)
_WRITTEN = (Completion, ChatCompletion, ChatChunk, ModelList, ModelCard, Health, ErrorBody)
_EVERYWHERE = {"400": "cannot be understood", "401": "the API key is missing or wrong"}
_OF_GENERATION = _EVERYWHERE | {
    "404": "there is no such model",
    "408": "the body did not arrive in time",
    "413": "the body is too large",
    "415": "the body is not sent as JSON",
    "429": "too many requests are waiting",
    "500": "it could not be computed",
    "503": "the server is stopping",
}
_EVENT = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}


def openapi_document(model: str) -> dict[str, Any]:
    """The whole document.

    Args:
        model: the one name that requests may give.
    """
    _, definitions = models_json_schema(
        [
            *((model, "validation") for model in _READ),
            *((model, "serialization") for model in _WRITTEN),
        ],
        ref_template="#/components/schemas/{model}",
    )
    schemas = definitions["$defs"]
    for body in _READ:
        schemas[body.__name__]["properties"]["model"] = {"type": "string", "enum": [model]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "opsuite serve", "version": "1"},
        "paths": _paths(),
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def _paths() -> dict[str, Any]:
    return {
        "/v1/completions": _generation("Complete a text", "CompletionRequest", "Completion"),
        "/v1/chat/completions": _generation("Answer a chat", "ChatRequest", "ChatCompletion"),
        "/v1/models": _get("The models that are served", _json("ModelList")),
        "/v1/models/{name}": _get(
            "One of them",
            _json("ModelCard"),
            errors=_EVERYWHERE | {"404": "there is no such model"},
            parameters=[
                {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
            ],
        ),
        "/health": _get(
            "Whether requests are taken",
            _json("Health"),
            errors={"400": "the Host header is not one of its own", "503": "it is stopping"},
            security=[],
        ),
        "/metrics": _get("How the server does", {"text/plain": {"schema": {"type": "string"}}}),
        "/openapi.json": _get("This document", {"application/json": {"schema": {}}}),
    }


def _generation(summary: str, asked: str, answer: str) -> dict[str, Any]:
    content = _json(answer) | {"text/event-stream": {"schema": _EVENT}}
    return {
        "post": {
            "summary": summary,
            "requestBody": {"required": True, "content": _json(asked)},
            "responses": _responses(content, _OF_GENERATION),
        }
    }


def _get(
    summary: str,
    content: dict[str, Any],
    *,
    errors: dict[str, str] = _EVERYWHERE,
    **more: Any,  # noqa: ANN401
) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": _responses(content, errors), **more}}


def _responses(content: dict[str, Any], errors: dict[str, str]) -> dict[str, Any]:
    told = {
        status: {"description": text, "content": _json("ErrorBody")}
        for status, text in errors.items()
    }
    return {"200": {"description": "as asked", "content": content}} | told


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
