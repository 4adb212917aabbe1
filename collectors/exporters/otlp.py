"""Requests as traces, in OpenTelemetry's protocol (OTLP) over HTTP with protobuf.

A request is a span ``request`` with the children ``queue``, ``prefill`` and ``decode``, at the true
times; attributes follow the semantic conventions for generative AI. Ids are made from run and
request, so a trace that is sent again is the same trace, and not another one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from collectors.errors import MissingExtra, Unreachable
from collectors.version import own_version

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    from collectors.query.source import Source

_PAGE = 20_000
_BATCH = 200  # requests in one message
_TIMEOUT_S = 10.0
_PATH = "/v1/traces"
_ENDED = """
    SELECT * FROM (
        SELECT request, coalesce(id, '') AS id, arrived_ns,
               arrived_ns + (queue_s * 1e9)::BIGINT AS scheduled_ns,
               arrived_ns + (ttft_s * 1e9)::BIGINT AS first_token_ns,
               arrived_ns + (latency_s * 1e9)::BIGINT AS finished_ns,
               prompt_tokens, output_tokens, reason
        FROM requests WHERE run_id = ? AND reason IS NOT NULL AND arrived_ns IS NOT NULL
    ) WHERE (finished_ns, request) > (?, ?) ORDER BY finished_ns, request LIMIT ?
"""


@dataclass(frozen=True, kw_only=True)
class EndedRequest:
    """A request that ended; instants are wall-clock nanoseconds, None: it did not come so far."""

    request: int
    id: str
    arrived_ns: int
    scheduled_ns: int | None
    first_token_ns: int | None
    finished_ns: int
    prompt_tokens: int | None
    output_tokens: int | None
    reason: str


class EndedRequests:
    """The requests of a run as they end, each once, in that order."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._last = (-1, -1)

    def new(self, source: Source) -> Iterator[Sequence[EndedRequest]]:
        """Those that ended since the last call, in parts of a bounded size."""
        names = EndedRequest.__dataclass_fields__
        while True:
            rows = source.rows(_ENDED, [self._run_id, *self._last, _PAGE])
            ended = [EndedRequest(**dict(zip(names, row, strict=True))) for row in rows]
            for begin in range(0, len(ended), _BATCH):
                yield ended[begin : begin + _BATCH]
                last = ended[min(begin + _BATCH, len(ended)) - 1]
                self._last = (last.finished_ns, last.request)
            if len(ended) < _PAGE:
                return


class TraceSender:
    """Sends requests of a run to a collector of OpenTelemetry.

    Args:
        endpoint: its base, such as http://127.0.0.1:4318, or the whole URL of its traces. Headers
            and certificates come from OpenTelemetry's own OTEL_EXPORTER_OTLP_* variables.
        model: what the run serves.

    Raises:
        MissingExtra: OpenTelemetry is not installed.
    """

    def __init__(self, endpoint: str, *, run_id: str, model: str, host: str) -> None:
        require_otlp()
        from opentelemetry.sdk.resources import Resource

        # The reason is told by us, once; its own log would tell each attempt.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        base = endpoint.rstrip("/")
        self._endpoint = base if base.endswith(_PATH) else base + _PATH
        self._exporter = _exporter(self._endpoint)
        self._run_id = run_id
        self._model = model
        self._resource: Resource = Resource(
            {
                "service.name": "opsuite",
                "service.version": own_version(),
                "service.instance.id": run_id,
                "host.name": host,
                "opsuite.run.id": run_id,
            }
        )
        self.sent = 0

    def send(self, requests: Sequence[EndedRequest]) -> None:
        """Send them, in one message.

        Raises:
            Unreachable: it was not taken.
        """
        from opentelemetry.sdk.trace.export import SpanExportResult

        spans = [span for request in requests for span in self._spans(request)]
        if self._exporter.export(spans) is not SpanExportResult.SUCCESS:
            raise Unreachable(
                f"the traces were not taken; {self.sent} requests were sent before",
                where=self._endpoint,
                remedy="check the endpoint, and send again: what is there already is not doubled",
            )
        self.sent += len(requests)

    def close(self) -> None:
        """Hang up."""
        self._exporter.shutdown()

    def _spans(self, request: EndedRequest) -> Iterator[ReadableSpan]:
        from opentelemetry.trace import SpanKind

        key = f"{self._run_id}/{request.request}/{request.id}"
        root = _context(key, "request")
        yield self._span(
            "request",
            root,
            request.arrived_ns,
            request.finished_ns,
            kind=SpanKind.SERVER,
            attributes=self._attributes(request),
            failed=request.reason == "error",
        )
        marks = (
            ("queue", request.arrived_ns, request.scheduled_ns),
            ("prefill", request.scheduled_ns, request.first_token_ns),
            ("decode", request.first_token_ns, request.finished_ns),
        )
        for name, start_ns, end_ns in marks:
            if start_ns is not None and end_ns is not None:
                yield self._span(name, _context(key, name), start_ns, end_ns, parent=root)

    def _attributes(self, request: EndedRequest) -> dict[str, Any]:
        attributes = {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.provider.name": "opsuite",
            "gen_ai.request.model": self._model,
            "gen_ai.response.id": request.id or None,
            "gen_ai.response.finish_reasons": [request.reason],
            "gen_ai.usage.input_tokens": request.prompt_tokens,
            "gen_ai.usage.output_tokens": request.output_tokens,
            "opsuite.request": request.request,
            "error.type": "_OTHER" if request.reason == "error" else None,
        }
        return {name: value for name, value in attributes.items() if value is not None}

    def _span(
        self,
        name: str,
        context: Any,  # noqa: ANN401 - SpanContext, known once OpenTelemetry is there
        start_ns: int,
        end_ns: int,
        *,
        parent: Any = None,  # noqa: ANN401
        kind: Any = None,  # noqa: ANN401
        attributes: dict[str, Any] | None = None,
        failed: bool = False,
    ) -> ReadableSpan:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import SpanKind, Status, StatusCode

        return ReadableSpan(
            name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            kind=kind or SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
            start_time=start_ns,
            end_time=max(start_ns, end_ns),
            instrumentation_scope=InstrumentationScope("opsuite", own_version()),
        )


def require_otlp() -> None:
    """Make sure that OpenTelemetry is installed; importing none of it.

    Raises:
        MissingExtra: it is not.
    """
    missing = [name for name in ("opentelemetry.sdk", _EXPORTER) if not _is_installed(name)]
    if missing:
        raise MissingExtra(
            f"this needs {', '.join(missing)}, not installed here",
            remedy='pip install "opsuite[otlp]"',
        )


_EXPORTER = "opentelemetry.exporter.otlp.proto.http"


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


def _exporter(endpoint: str) -> SpanExporter:
    import requests
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    session = requests.Session()
    session.trust_env = False  # no proxy between us and an endpoint that was named
    return OTLPSpanExporter(endpoint=endpoint, timeout=_TIMEOUT_S, session=session)


def _context(key: str, name: str) -> Any:  # noqa: ANN401
    from opentelemetry.trace import SpanContext, TraceFlags

    trace = sha256(key.encode()).digest()
    span = sha256(f"{key}/{name}".encode()).digest()
    return SpanContext(
        trace_id=int.from_bytes(trace[:16], "big") or 1,
        span_id=int.from_bytes(span[:8], "big") or 1,
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
