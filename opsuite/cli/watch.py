"""``opsuite watch URL``: anybody's server, by what it tells at ``/metrics``."""

from __future__ import annotations

import json
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from collectors.errors import OpsuiteError, Unreachable, UsageError
from opsuite.output import narrate, print_data

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collectors.recorder import Recorder
    from collectors.run import RunDirectory
    from collectors.samplers.exposition import Exposition
    from collectors.samplers.scrape import Address
    from collectors.samplers.server_watch import ServerWatch
    from collectors.stop_request import StopRequest

_FIRST_CONTACT_S = 10.0
_LEAST_PERIOD_S = 0.05
_LONGEST_ANSWER_S = 5.0


def watch(
    url: Annotated[str, typer.Argument(metavar="URL", help="The server: http://host:8000.")],
    *,
    name: Annotated[
        str | None, typer.Option(help="Of the run. [default: the model, or the host]")
    ] = None,
    every: Annotated[str, typer.Option(metavar="TIME", help="How often to ask it.")] = "1s",
    duration: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="Until when. [default: Ctrl-C]")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON line with run, source, url and models.")
    ] = False,
) -> None:
    """Watch a server that opsuite did not start: vLLM, SGLang or TGI, by its /metrics.

    It becomes a run of its own, in the same views as servers of opsuite: see the view `serving`.
    OPSUITE_API_KEY is the key where the server asks for one; the run's id is printed.
    """
    from collectors.samplers.scrape import fetch, parse_address
    from collectors.samplers.server_watch import ServerWatch
    from collectors.settings import Settings
    from collectors.stop_request import StopRequest, made_by

    settings = Settings.from_environment()
    period_s = _seconds(every, "--every", least=_LEAST_PERIOD_S)
    limit_s = None if duration is None else _seconds(duration, "--for", least=0.0)
    address = parse_address(url, api_key=settings.api_key)
    answer_s = min(_LONGEST_ANSWER_S, max(1.0, period_s))
    watched = ServerWatch(
        address.shown,
        fetch=lambda: fetch(address, timeout_s=answer_s),
        clock=time.monotonic,
    )
    ends_s = None if limit_s is None else time.monotonic() + limit_s
    with made_by(StopRequest(), signal.SIGTERM) as stop:
        first = _meet(watched, address, period_s, limit_s, stop)
        if first is None:
            return
        with _recorded(name, watched, address, first, period_s) as run:
            _tell(run, watched, address, as_json)
            looks, failed = _follow(watched, period_s, ends_s, stop)
    narrate(f"{looks} looks, {failed} in vain: opsuite query \"FROM ttft('{run.run_id}')\"")


def _seconds(text: str, where: str, *, least: float) -> float:
    from collectors.duration import parse_duration

    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise UsageError(str(error), where=where, remedy="give a time") from None
    if seconds < least:
        raise UsageError(f"{text} is too short", where=where, remedy=f"give at least {least:g}s")
    return seconds


def _meet(
    watched: ServerWatch,
    address: Address,
    period_s: float,
    limit_s: float | None,
    stop: StopRequest,
) -> Exposition | None:
    """The first look, asked again for a while where nobody answers; None: it was stopped.

    Raises:
        Unreachable: nobody ever did, or with something that will not change.
    """
    from collectors.samplers.scrape import Refused

    patience_s = _FIRST_CONTACT_S if limit_s is None else min(limit_s, _FIRST_CONTACT_S)
    deadline = time.monotonic() + patience_s
    told = False
    while True:
        try:
            return watched.meet()
        except Refused:
            raise
        except OpsuiteError as error:
            if time.monotonic() + period_s > deadline:
                raise Unreachable(
                    f"it was never reachable: {error.what}",
                    where=address.shown,
                    remedy=error.remedy or "check that it runs, and its host and port",
                ) from None
            if not told:
                narrate(f"{address.shown}: {error.what}; trying for {patience_s:g} s")
                told = True
        if stop.wait(period_s):
            return None


@contextmanager
def _recorded(
    name: str | None,
    watched: ServerWatch,
    address: Address,
    first: Exposition,
    period_s: float,
) -> Iterator[RunDirectory]:
    """A run for the body's duration, whose manifest says how it ended."""
    from collectors.run import RunDirectory
    from collectors.settings import Settings
    from opsuite.collecting import start_collecting

    settings = Settings.from_environment()
    models = sorted(first.models())
    start_collecting(settings)
    run = RunDirectory.create(
        settings.home,
        name=name or (models[0] if len(models) == 1 else address.host),
        kind="serving",
        command=["opsuite", "watch", address.shown, "--every", f"{period_s:g}s"],
        config={"url": address.shown, "source": watched.source, "every_s": period_s},
        world_size=1,
    )
    try:
        try:
            watched.begin(first, lambda: _open_recorder(run))
            yield run
        finally:
            watched.close()
    except KeyboardInterrupt:
        run.finish("interrupted", 130)
        raise
    except BaseException:
        run.finish("failed", 1)
        raise
    run.finish("finished", 0)


def _open_recorder(run: RunDirectory) -> Recorder:
    from collectors.clock import host_name
    from collectors.recorder import Identity, open_recorder

    identity = Identity(
        run_id=run.run_id, role="server", rank=0, world_size=1, host=host_name(), coordinates={}
    )
    return open_recorder(run.spool, identity)


def _tell(run: RunDirectory, watched: ServerWatch, address: Address, as_json: bool) -> None:
    models = ", ".join(watched.models) or "a model that it does not name"
    narrate(f"watching {watched.source} at {address.shown}: {models}")
    about = {
        "run": run.run_id,
        "source": watched.source,
        "url": address.shown,
        "models": list(watched.models),
    }
    print_data(json.dumps(about) if as_json else run.run_id)


def _follow(
    watched: ServerWatch, period_s: float, ends_s: float | None, stop: StopRequest
) -> tuple[int, int]:
    """Look every period until the end; how often it did, and how often in vain."""
    looks, failed = 1, 0
    due_s = time.monotonic() + period_s
    while ends_s is None or due_s <= ends_s:
        if stop.wait(due_s - time.monotonic()):
            break
        sight = watched.look()
        looks += 1
        failed += not sight.well
        for news in sight.news:
            narrate(news)
        late_s = max(0.0, time.monotonic() - due_s)
        due_s += period_s * (1 + late_s // period_s)  # what was missed is not made up for
    return looks, failed
