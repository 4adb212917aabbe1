"""One server: a model directory in, an HTTP API out, and its life recorded as a run."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from starlette.middleware import Middleware

from collectors.api_key import require_key
from collectors.clock import host_name
from collectors.errors import RunFailed, UsageError
from collectors.recorder import Identity, NullRecorder, Recorder, open_recorder
from collectors.run import RunDirectory
from engine.devices import pick_device
from engine.serving.api import create_api
from engine.serving.cache import KeyValueCache
from engine.serving.completions import ServedModel
from engine.serving.engine import Engine
from engine.serving.guard import Guard
from engine.serving.http_server import HttpServer
from engine.serving.listener import Listener, bind, listen
from engine.serving.loader import LoadedModel, load_model
from engine.serving.policies.fcfs import FirstComeFirstServed
from engine.serving.policies.policy import Capacity
from engine.serving.runner import ModelRunner
from engine.serving.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from collectors.settings import Settings
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
        if config.threads:
            torch.set_num_threads(config.threads)
        model = load_model(directory, pick_device(config.device))
        name = config.name or directory.resolve().name
        served = _served(name, model, config)
        runner = _runner(model, config, served.max_len)
        with _recorded(name, config, settings) as (run_id, recorder):
            streams = Streams(max_open=config.max_batch + config.max_waiting)
            engine = Engine(
                runner=runner,
                policy=FirstComeFirstServed(_capacity(config, served)),
                vocabulary=model.vocabulary,
                end_tokens=model.end_tokens,
                recorder=recorder,
                emit=streams.deliver,
            )
            guard = Middleware(Guard, api_key=api_key, hosts=listener.allowed_hosts)
            http = HttpServer(
                create_api(served, streams, middleware=[guard]),
                streams,
                drain_s=config.drain_s,
                on_ready=lambda: on_ready(Ready(url=listener.url, model=name, run_id=run_id)),
            )
            listen(listener)
            asyncio.run(_run(http, engine, streams, listener))
            if http.ended_by is None:
                raise RunFailed("the engine failed", remedy="see its traceback above")
            if http.ended_by is signal.SIGINT:
                raise KeyboardInterrupt


async def _run(http: HttpServer, engine: Engine, streams: Streams, listener: Listener) -> None:
    streams.attach(engine)
    engine.start()
    try:
        await http.serve(sockets=[listener.socket])
    finally:
        engine.stop()


def _served(name: str, model: LoadedModel, config: ServingConfig) -> ServedModel:
    context = model.config.max_seq_len
    if config.max_len and config.max_len > context:
        raise UsageError(
            f"the model's context holds {context} tokens",
            where=f"--max-len {config.max_len}",
            remedy=f"give at most {context}",
        )
    return ServedModel(
        name=name,
        tokenizer=model.tokenizer,
        vocabulary=model.vocabulary,
        vocab_size=model.config.vocab_size,
        max_len=config.max_len or context,
    )


def _capacity(config: ServingConfig, served: ServedModel) -> Capacity:
    return Capacity(max_batch=config.max_batch, kv_tokens=config.max_batch * served.max_len)


def _runner(model: LoadedModel, config: ServingConfig, max_len: int) -> ModelRunner:
    weights = model.network.lm_head.weight
    try:
        cache = KeyValueCache(
            model.config,
            max_batch=config.max_batch,
            max_len=max_len,
            device=weights.device,
            dtype=weights.dtype,
        )
    except RuntimeError:  # torch's for memory that is not there, on the CPU and on GPUs
        raise UsageError(
            f"no memory for the keys and values of {config.max_batch} x {max_len} tokens",
            where=str(weights.device),
            remedy="give a smaller --max-batch or --max-len",
        ) from None
    runner = ModelRunner(model.network, cache)
    runner.warm_up()
    return runner


@contextmanager
def _recorded(
    name: str, config: ServingConfig, settings: Settings
) -> Iterator[tuple[str | None, Recorder]]:
    """A run for the body's duration, whose manifest says how it ended."""
    if not settings.record:
        yield None, NullRecorder()
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
        recorder = _open_recorder(run)
        try:
            yield run.run_id, recorder
        finally:
            recorder.close()
    except KeyboardInterrupt:
        run.finish("interrupted", 130)
        raise
    except BaseException:
        run.finish("failed", 1)
        raise
    run.finish("finished", 0)


def _open_recorder(run: RunDirectory) -> Recorder:
    identity = Identity(
        run_id=run.run_id,
        role="server",
        rank=0,
        world_size=1,
        host=host_name(),
        coordinates={},
    )
    return open_recorder(run.spool, identity)
