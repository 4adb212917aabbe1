"""``opsuite serve``: a model behind OpenAI's API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collectors.api_key import read_key
from collectors.settings import Settings
from opsuite.collecting import start_collecting
from opsuite.extras import require_engine
from opsuite.output import narrate, print_data

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.serving.server import Ready


def serve(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model directory, run directory, run id or last.")
    ],
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    max_batch: Annotated[int, typer.Option(help="Requests that run at once.")] = 16,
    max_len: Annotated[
        int | None, typer.Option(help="Tokens of prompt and completion. [default: the context]")
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            help="In which order requests run: adaptive, skip-join-mlfq, mlfq, priority or fcfs;"
            " of several instances, which of them compute what: esp, replicas, static-sp or"
            " disaggregated."
        ),
    ] = "adaptive",
    instances: Annotated[
        int, typer.Option(help="Replicas of the model that compute together, elastically.")
    ] = 1,
    order: Annotated[
        str, typer.Option(help="With --policy esp and its like: in which order requests run.")
    ] = "adaptive",
    profile: Annotated[
        Path | None,
        typer.Option(help="Measured times (opsuite profile). [default: measured at start]"),
    ] = None,
    prefill_tokens: Annotated[
        int, typer.Option(help="Tokens of prompts that one iteration computes.")
    ] = 512,
    kv_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens of keys and values on the device. [default: what has room]"),
    ] = None,
    swap_gb: Annotated[
        float, typer.Option(help="Host memory for preempted requests, in GB.")
    ] = 4.0,
    make_room: Annotated[
        str,
        typer.Option(help="Preempted requests: proactive or reactive swapping, or recompute."),
    ] = "proactive",
    tp: Annotated[int, typer.Option(help="Processes that share each matrix.")] = 1,
    pp: Annotated[int, typer.Option(help="Stages, each with a part of the layers.")] = 1,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of one operation. [default: all cores]")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    api_key_file: Annotated[
        Path | None, typer.Option(help="File with the key that clients must send.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model. [default: its directory]")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON line with url, model and run when ready.")
    ] = False,
) -> None:
    """Serve a model through OpenAI's API: completions and chat.

    The address is printed when the server is ready to answer. With no --api-key-file,
    OPSUITE_API_KEY is the key; with neither, only this machine may connect.
    """
    from opsuite.model_reference import resolve_model

    settings = Settings.from_environment()
    api_key = read_key(api_key_file) if api_key_file else settings.api_key
    require_engine()
    reference = resolve_model(settings.home, model)
    options = {
        "host": host,
        "port": port,
        "max_batch": max_batch,
        "max_len": max_len,
        "policy": policy,
        "instances": instances,
        "order": order,
        "profile": None if profile is None else str(profile.resolve()),
        "prefill_tokens": prefill_tokens,
        "kv_tokens": kv_tokens,
        "swap_gb": swap_gb,
        "make_room": make_room,
        "tp": tp,
        "pp": pp,
        "threads": threads,
        "device": device,
        "name": name or reference.name,
    }

    def announce(ready: Ready) -> None:
        narrate(f"serving {ready.model} at {ready.url}")
        if as_json:
            data = {"url": ready.url, "model": ready.model, "run": ready.run_id}
            print_data(json.dumps(data))

    start_collecting(settings)
    _serve(reference.directory, options, settings, api_key, announce)


def _serve(
    directory: Path,
    options: dict[str, Any],
    settings: Settings,
    api_key: str | None,
    announce: Callable[[Ready], None],
) -> None:
    from collectors.configuration import resolve
    from engine.serving.config import ServingConfig
    from engine.serving.server import serve as serve_model

    given = {key: value for key, value in options.items() if value is not None}
    config = resolve(ServingConfig, [("the command line", given)]).value
    serve_model(directory, config, settings=settings, api_key=api_key, on_ready=announce)
