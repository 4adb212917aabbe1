"""``opsuite export``: what is recorded, to the monitoring that is there already."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from collectors.errors import UsageError
from opsuite.output import narrate, print_data, print_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from collectors.exporters.otlp import EndedRequests, TraceSender
    from collectors.run import RunDirectory
    from collectors.settings import Settings


class Exports(TyperGroup):
    """A name that is no command is a run's, whose model is meant."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401 - click's, or a copy
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["model", *args]
        return super().resolve_command(ctx, args)


export = typer.Typer(
    cls=Exports,
    no_args_is_help=True,
    help="A run's model for others; what is recorded, for Prometheus or OpenTelemetry.",
)

_FOLLOW_S = 1.0


@export.command()
def model(
    run: Annotated[str, typer.Argument(help="Run id, its beginning, or `last`.")],
    *,
    step: Annotated[
        int | None, typer.Option(min=1, help="Of a checkpoint that was kept; else the newest.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="A directory to make; else one in the run's own.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print where it is as JSON.")] = False,
) -> None:
    """Write a training run's model as a Hugging Face directory: `opsuite export RUN --step N`."""
    from collectors.run import RunDirectory
    from collectors.settings import Settings
    from opsuite.extras import require_engine
    from opsuite.model_export import export_step

    require_engine()
    directory = RunDirectory.open(Settings.from_environment().home, run, kind="training")
    written = export_step(directory, step=step, output=output)
    if as_json:
        document = {"run": directory.run_id, "step": written.step, "model": str(written.directory)}
        print_json(document)
    else:
        print_data(str(written.directory))


@export.command()
def prometheus(
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 9464,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    run: Annotated[str, typer.Option(help="Run id, its beginning, or `last`.")] = "last",
    api_key_file: Annotated[
        Path | None, typer.Option(help="File with the key that Prometheus must send.")
    ] = None,
) -> None:
    """Serve /metrics for Prometheus: steps, ranks, GPUs, servers, findings and alerts.

    The address is printed. With no --api-key-file, OPSUITE_API_KEY is the key; with neither, only
    this machine may connect. `last` follows: it is the newest run at each scrape.
    """
    from collectors.api_key import read_key, require_key
    from collectors.daemon.access import open_store
    from collectors.exporters.metrics_server import MetricsServer
    from collectors.exporters.prometheus import MetricsPage
    from collectors.settings import Settings
    from engine.serving.api.listener import bind
    from opsuite.collecting import start_collecting

    settings = Settings.from_environment()
    api_key = read_key(api_key_file) if api_key_file else settings.api_key
    listener = bind(host, port)
    with listener.socket:
        require_key(host, api_key, loopback=listener.loopback)
        reference = _run_to_export(settings, run)
        start_collecting(settings)
        page = MetricsPage(
            reference,
            open_store=lambda: open_store(settings.home),
            status=lambda: _status(settings),
        )
        server = MetricsServer(
            listener.socket, page.make, api_key=api_key, hosts=listener.allowed_hosts
        )
        print_data(f"{listener.url}/metrics")
        _serve_until_stopped(server.serve_forever, server.shutdown)
        page.close()


@export.command()
def otlp(
    run: Annotated[str, typer.Argument(help="Run id, its beginning, or `last`.")],
    *,
    endpoint: Annotated[
        str, typer.Option(metavar="URL", help="Of an OpenTelemetry collector.")
    ] = "http://127.0.0.1:4318",
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the run has ended.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was sent as JSON.")] = False,
) -> None:
    """Send the requests of a serving run as traces to OpenTelemetry.

    Each request that ended is a trace. Sending again changes nothing: the ids are the same.
    """
    from collectors.exporters.otlp import EndedRequests, TraceSender, require_otlp
    from collectors.run import RunDirectory
    from collectors.settings import Settings

    require_otlp()
    _check_endpoint(endpoint)
    home = Settings.from_environment().home
    directory = RunDirectory.open(home, run, kind="serving")
    manifest = directory.manifest
    _check_own(directory)
    sender = TraceSender(endpoint, run_id=manifest.run_id, model=manifest.name, host=manifest.host)
    try:
        _send_all(home, directory, EndedRequests(directory.run_id), sender, follow)
    except KeyboardInterrupt:
        narrate(f"{sender.sent} requests were sent")
        raise
    finally:
        sender.close()
    if as_json:
        print_json({"run": manifest.run_id, "endpoint": endpoint, "requests": sender.sent})
    else:
        narrate(f"{sender.sent} requests were sent to {endpoint}")


def _run_to_export(settings: Settings, reference: str) -> str:
    """The id of a run that is named; `last` stays, and may be of later."""
    from collectors.run import RunDirectory

    if reference == "last" or settings.collector is not None:
        return reference
    return RunDirectory.open(settings.home, reference).run_id


def _status(settings: Settings) -> Mapping[str, Any] | None:
    from collectors.daemon.client import DaemonClient

    client = (
        DaemonClient.connect(settings.collector)
        if settings.collector is not None
        else DaemonClient.find(settings.home)
    )
    if client is None:
        return None
    with client:
        return client.status()


def _serve_until_stopped(serve: Callable[[float], None], stop: Callable[[], None]) -> None:
    """Serve in a thread until SIGTERM; an interrupt passes through."""
    from collectors.stop_request import StopRequest, made_by

    with made_by(StopRequest(), signal.SIGTERM) as stopped:
        thread = threading.Thread(target=serve, args=(0.1,), daemon=True)
        thread.start()
        try:
            stopped.wait()
        finally:
            stop()
            thread.join()


def _check_endpoint(endpoint: str) -> None:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(endpoint)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise UsageError(
            "no address of an OpenTelemetry collector",
            where="--endpoint",
            remedy="write it like http://127.0.0.1:4318",
        )


def _check_own(run: RunDirectory) -> None:
    """Of a scraped server there are no single requests."""
    if (source := run.manifest.config.get("source")) is not None:
        raise UsageError(
            f"{run.run_id} was scraped from {source}, which tells no single requests",
            where=str(run.path),
            remedy="export a run of `opsuite serve`; or let the server itself send its traces",
        )


def _send_all(
    home: Path, run: RunDirectory, requests: EndedRequests, sender: TraceSender, follow: bool
) -> None:
    from collectors.daemon.access import open_store
    from collectors.run import RunDirectory

    while True:
        lives = RunDirectory.load(run.path).manifest.status == "running"
        with open_store(home) as store:
            for part in requests.new(store):
                sender.send(part)
        if not (follow and lives):
            return
        time.sleep(_FOLLOW_S)
