"""A server that is watched from outside: what its metrics say becomes samples and events.

Of each interval between two readings, with the interval's number as ``step``:

- samples ``server.running``, ``server.waiting``, ``server.kv_usage``, ``server.cache_hit_rate``:
  what was so at its end;
- samples ``server.prompt_tokens``, ``server.generation_tokens``, ``server.finished``,
  ``server.errors``, ``server.cancelled``, ``server.preemptions``: what came in it, and
  ``server.interval_s``: how long it was;
- events ``server.latency`` with the interval's number as subject, one for each measure of which
  anything came: ``{"measure", "low", "high", "counts", "sum_s"}`` are the buckets that count any.

Events ``server.seen``, ``server.unreachable``, ``server.back`` and ``server.restarted`` say how the
server itself does. Each model of a server is recorded by a recorder of its own.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from collectors.errors import OpsuiteError
from collectors.samplers.exposition import Exposition, read_exposition
from collectors.samplers.scrape import Refused
from collectors.samplers.server_dialects import DIALECTS
from collectors.samplers.server_progress import ServerProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from collectors.recorder import Recorder
    from collectors.samplers.server_progress import Interval

MOST_MODELS = 8


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What a look at the server showed.

    Attributes:
        well: whether it told its metrics.
        news: what has changed since the last look, for people.
    """

    well: bool
    news: tuple[str, ...] = ()


class ServerWatch:
    """Looks at one server again and again.

    Args:
        where: the address, for people.
        fetch: gets the text of its metrics; an OpsuiteError says why it could not.
        clock: monotonic seconds.
    """

    def __init__(self, where: str, *, fetch: Callable[[], str], clock: Callable[[], float]) -> None:
        self._where = where
        self._fetch = fetch
        self._clock = clock
        self._progress = ServerProgress(most_models=MOST_MODELS)
        self._open: Callable[[], Recorder] | None = None
        self._recorders: dict[str, Recorder] = {}
        self._number = 0
        self._lost: str | None = None
        self._left_out = False
        self.source = ""

    @property
    def models(self) -> Sequence[str]:
        """What it serves, where it says so."""
        return [model for model in self._progress.models if model]

    def meet(self) -> Exposition:
        """The first look; nothing is recorded yet.

        Raises:
            Refused: it answers, but not with metrics that are known.
            OpsuiteError: it does not answer, or not yet.
        """
        exposition = read_exposition(self._fetch())
        if exposition is None:
            raise Refused(
                "these are not the metrics of a server that is known",
                where=self._where,
                remedy=f"known are {', '.join(DIALECTS)}; is it the right port?",
            )
        self.source = exposition.dialect.source
        return exposition

    def begin(self, exposition: Exposition, open_recorder: Callable[[], Recorder]) -> None:
        """Record from now on, what was seen at the first look to begin with."""
        self._open = open_recorder
        self._record(exposition)

    def look(self) -> Sight:
        """Read its metrics and record them, or that it cannot be reached."""
        try:
            exposition = self.meet()
        except OpsuiteError as error:
            return self._lose(error.what)
        news = self._record(exposition)
        if self._lost is not None:
            self._first.event("server.back")
            self._lost = None
            news = ("the server is back", *news)
        return Sight(well=True, news=news)

    def close(self) -> None:
        """Seal what was recorded."""
        for recorder in self._recorders.values():
            recorder.close()

    @property
    def _first(self) -> Recorder:
        return next(iter(self._recorders.values()))

    def _lose(self, why: str) -> Sight:
        known, self._lost = self._lost, why
        if known is not None:
            return Sight(well=False)
        self._first.event("server.unreachable", attributes={"why": why})
        return Sight(well=False, news=(f"the server cannot be reached: {why}",))

    def _record(self, exposition: Exposition) -> tuple[str, ...]:
        for model in self._progress.meet(exposition):
            self._recorder(model)  # opening one takes time, which is of no interval
        progress = self._progress.take(exposition, self._clock())
        for interval in progress.intervals:
            self._record_interval(interval)
        self._number += 1
        news = []
        if progress.restarted:
            self._first.event("server.restarted")
            news.append("the server has started again: its counters begin anew")
        if not self._left_out and (more := len(exposition.models()) - MOST_MODELS) > 0:
            self._left_out = True
            news.append(f"{more} more models are left out")
        return tuple(news)

    def _record_interval(self, interval: Interval) -> None:
        recorder = self._recorder(interval.model)
        number = self._number
        for name, value in {**interval.gauges, **interval.counts}.items():
            recorder.sample(f"server.{name}", value, number)
        if interval.seconds is not None:
            recorder.sample("server.interval_s", interval.seconds, number)
        for measure, latencies in interval.latencies.items():
            recorder.event(
                "server.latency",
                subject=number,
                value=sum(latencies.counts),
                attributes={"measure": measure, **asdict(latencies)},
            )

    def _recorder(self, model: str) -> Recorder:
        if model not in self._recorders:
            assert self._open is not None, "it has begun"
            recorder = self._recorders[model] = self._open()
            about = {"source": self.source, "model": model or None, "url": self._where}
            recorder.event("server.seen", attributes=about)
        return self._recorders[model]
