"""One server: a model directory in, an HTTP API out, and its life recorded as a run."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.middleware import Middleware

from collectors.api_key import require_key
from collectors.errors import RunFailed
from collectors.run import RunDirectory
from engine.serving.api.application import create_api
from engine.serving.api.engine_link import EngineLink
from engine.serving.api.guard import Guard
from engine.serving.api.http_server import HttpServer
from engine.serving.api.listener import bind, listen
from engine.serving.api.metrics import Metrics
from engine.serving.api.served_model import load_served_model
from engine.serving.api.streams import Streams
from engine.serving.request import FinishReason
from engine.serving.wire import Start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from collectors.settings import Settings
    from engine.serving.api.listener import Listener
    from engine.serving.api.served_model import ServedModel
    from engine.serving.config import ServingConfig


@dataclass(frozen=True, kw_only=True)
class Ready:
    """Said once the server answers.

    Attributes:
        model: what clients call the model.
        run_id: the run that it records; None with recording off.
    """

    url: str
    model: str
    run_id: str | None


def serve(
    directory: Path,
    config: ServingConfig,
    *,
    settings: Settings,
    api_key: str | None,
    on_ready: Callable[[Ready], None],
) -> None:
    """Serve the model in a directory until SIGTERM; its run is named like the model.

    Raises:
        UsageError: an address, option or directory that cannot be used.
        DataError: a file of the model cannot be used.
        StorageError: the run cannot be recorded.
        RunFailed: the engine failed.
        KeyboardInterrupt: SIGINT ended it.
    """
    listener = bind(config.host, config.port)
    with listener.socket:
        require_key(listener.host, api_key, loopback=listener.loopback)
        model = load_served_model(
            directory,
            name=config.name,
            max_len=config.max_len,
            priorities=config.policy == "priority",
        )
        with _recorded(model.name, config, settings) as run:
            start = Start(
                directory=str(directory.resolve()),
                config=config.model_dump_json(),
                run_id=run.run_id if run else "",
                spool=str(run.spool) if run else "",
            )
            run_id = run.run_id if run else None
            server = Server(model, config, listener, start, api_key=api_key)
            ended_by = asyncio.run(
                server.run(
                    lambda: on_ready(Ready(url=listener.url, model=model.name, run_id=run_id))
                )
            )
            if ended_by is None:
                raise RunFailed("the engine failed", remedy="see its words above")
            if ended_by is signal.SIGINT:
                raise KeyboardInterrupt


class Server:
    """HTTP on one side, the engine's process on the other."""

    def __init__(
        self,
        model: ServedModel,
        config: ServingConfig,
        listener: Listener,
        start: Start,
        *,
        api_key: str | None,
    ) -> None:
        self._model = model
        self._config = config
        self._listener = listener
        self._link = EngineLink(start, patience_s=config.patience_s)
        self._api_key = api_key

    async def run(self, on_ready: Callable[[], None]) -> signal.Signals | None:
        """Until a signal, which is returned; None: the engine failed for good."""
        config, link, model = self._config, self._link, self._model
        metrics = Metrics(model.name, link)
        streams = Streams(
            link, model.vocabulary, metrics, max_open=config.max_batch + config.max_waiting
        )
        guard = Middleware(Guard, api_key=self._api_key, hosts=self._listener.allowed_hosts)
        http = HttpServer(
            create_api(model, streams, metrics, middleware=[guard]),
            streams,
            drain_s=config.drain_s,
            on_ready=on_ready,
        )
        try:
            await link.open(streams.deliver)
            listen(self._listener)
            beside = [
                asyncio.create_task(self._hear(streams)),
                asyncio.create_task(link.watch()),
            ]
            await http.serve(sockets=[self._listener.socket])
            for task in beside:
                task.cancel()
        finally:
            await link.close()
        return http.ended_by

    async def _hear(self, streams: Streams) -> None:
        await self._link.run()
        streams.give_up(FinishReason.ERROR)


@contextmanager
def _recorded(
    name: str, config: ServingConfig, settings: Settings
) -> Iterator[RunDirectory | None]:
    """A run for the body's duration, whose manifest says how it ended; None with recording off."""
    if not settings.record:
        yield None
        return
    run = RunDirectory.create(
        settings.home,
        name=name,
        kind="serving",
        command=sys.argv,
        config=config.model_dump(mode="json"),
        world_size=1,
    )
    try:
        yield run
    except KeyboardInterrupt:
        run.finish("interrupted", 130)
        raise
    except BaseException:
        run.finish("failed", 1)
        raise
    run.finish("finished", 0)
