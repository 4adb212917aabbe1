"""Ways to record a span: ours, and what people use otherwise, each as its own documentation says.

Torch and OpenTelemetry are no dependencies of the base install: they are looked up when they are
compared with, and left out where they are missing.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from collectors.clock import host_name
from collectors.recorder import Identity, open_recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path


class Tracer(Protocol):
    """Something that records spans while it is switched on."""

    def span(self, name: str, step: int) -> AbstractContextManager[Any]:
        """Times its body."""

    def begin(self) -> None:
        """Switch it on."""

    def end(self) -> None:
        """Switch it off, and wait until what it has to do in the background is done."""


class Opsuite:
    """This project's recorder."""

    def __init__(self, spool: Path, _: Path) -> None:
        identity = Identity(
            run_id=spool.parent.name,
            role="trainer",
            rank=0,
            world_size=1,
            host=host_name(),
            coordinates={},
        )
        self.span = open_recorder(spool, identity).span

    def begin(self) -> None: ...

    def end(self) -> None: ...


class TorchProfiler:
    """``torch.profiler.record_function`` under an active profiler of the CPU."""

    def __init__(self, _: Path, __: Path) -> None:
        self._profiler = import_module("torch.profiler")
        self._active: Any = None

    def span(self, name: str, step: int) -> AbstractContextManager[Any]:
        made: AbstractContextManager[Any] = self._profiler.record_function(name)
        return made

    def begin(self) -> None:
        self._active = self._profiler.profile(activities=[self._profiler.ProfilerActivity.CPU])
        self._active.start()

    def end(self) -> None:
        self._active.stop()


class JsonLines:
    """A line of JSON a span, through ``logging`` and its FileHandler."""

    def __init__(self, _: Path, scratch: Path) -> None:
        self._logger = logging.getLogger("opsuite.bench.spans")
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        self._logger.addHandler(logging.FileHandler(scratch / "spans.jsonl"))

    @contextmanager
    def span(self, name: str, step: int) -> Iterator[None]:
        start = time.monotonic_ns()
        try:
            yield
        finally:
            end = time.monotonic_ns()
            line = {"name": name, "start_ns": start, "end_ns": end, "step": step}
            self._logger.info(json.dumps(line))

    def begin(self) -> None: ...

    def end(self) -> None: ...


class OpenTelemetry:
    """OpenTelemetry's SDK with its batch processor, whose exporter writes JSON into a file."""

    def __init__(self, _: Path, scratch: Path) -> None:
        sdk = import_module("opentelemetry.sdk.trace")
        export = import_module("opentelemetry.sdk.trace.export")
        file = (scratch / "otel.jsonl").open("a", encoding="utf-8")

        class FileExporter(export.SpanExporter):  # type: ignore[name-defined,misc]
            """Serialises in this process, as a network exporter does."""

            def export(self, spans: Any) -> Any:  # noqa: ANN401 - a library that is not typed here
                file.writelines(span.to_json(indent=None) + "\n" for span in spans)
                file.flush()
                return export.SpanExportResult.SUCCESS

        self._provider = sdk.TracerProvider()
        self._provider.add_span_processor(export.BatchSpanProcessor(FileExporter()))
        self._tracer = self._provider.get_tracer("opsuite.bench")

    def span(self, name: str, step: int) -> AbstractContextManager[Any]:
        made: AbstractContextManager[Any] = self._tracer.start_as_current_span(
            name, attributes={"step": step}
        )
        return made

    def begin(self) -> None: ...

    def end(self) -> None:
        self._provider.force_flush()


TRACERS: dict[str, Callable[[Path, Path], Tracer]] = {
    "opsuite": Opsuite,
    "torch.profiler.record_function": TorchProfiler,
    "JSON lines through logging": JsonLines,
    "OpenTelemetry SDK, batch exporter": OpenTelemetry,
}
"""By name; each is made with the run's spool and a directory for other files."""
