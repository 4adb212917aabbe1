"""How far the clock of one host is from another's, and how sure that is. Pure.

Nobody leaves a synchronising collective before the last rank arrives. So what host A saw of one and
what host B saw of it bound theta, the reading of B's clock minus that of A's::

    start_B - end_A <= theta    when B's clock reads start_B
    theta <= end_B - start_A    when B's clock reads end_B

A request and its reply bound it in the same way. Over all of them, the lines (offset and drift)
between the upper hull of the lower bounds and the lower hull of the upper ones make a polygon: the
true line is in it as long as the drift is constant (Duda et al. 1987, "Estimating global time in
distributed systems"). The line reported is the one that fits the common ends of the collectives,
moved into the polygon; its error bound is the farthest that any line of the polygon lies from it.

A drift that changes by more than :data:`WANDER` may leave no line at all. Then the line that
violates the bounds least is reported, and its error comes from each bound by itself: no line is
assumed, only that clocks drift by less than :data:`MAX_DRIFT`. It is wider, and still a bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from collectors.clocks.lines import lower_hull, nearest_line, region_between

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from collectors.clocks.lines import Points, Region

MAX_DRIFT = 1e-3
"""No two clocks drift apart faster: the kernel slews each by 500 ppm at most."""
USUAL_DRIFT = 5e-5
"""Quartz is off by tens of ppm: what little data says about the drift is weighed against this."""
WANDER = 2e-8
"""The drift of a clock in good order changes by this little within a run."""
_RESOLUTION_NS = 1_000.0
_LEAST_NOISE_NS = 20_000.0  # of the common ends, so that few of them do not look exact
_MARGIN = 1.05  # errors hold for this much of the span: steps begin before their first collective
_BINS = 256
_KEPT_PER_BIN = 16
_BINS_OF_FIT = 64


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """What N exchanges say about theta, the clock of B minus the clock of A, int64 nanoseconds [N].

    Attributes:
        low_at, low: theta >= ``low`` when B's clock reads ``low_at``.
        high_at, high: theta <= ``high`` when B's clock reads ``high_at``.
        guess: the likeliest theta when B's clock reads ``high_at``: of a collective, the difference
            of its ends; of a request and its reply, the middle of the bounds.
    """

    low_at: NDArray[np.int64]
    low: NDArray[np.int64]
    high_at: NDArray[np.int64]
    high: NDArray[np.int64]
    guess: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.low)

    def chosen(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> Constraints:
        """Some of them, by mask or index."""
        return Constraints(**{name: getattr(self, name)[which] for name in _FIELDS})

    def joined(self, other: Constraints) -> Constraints:
        """These and others."""
        return Constraints(
            **{
                name: np.concatenate([getattr(self, name), getattr(other, name)])
                for name in _FIELDS
            }
        )


_FIELDS = tuple(Constraints.__dataclass_fields__)


@dataclass(frozen=True, kw_only=True)
class Offset:
    """A clock against another: other = t - offset_ns - (t - at_ns) * drift, give or take error_ns.

    The error holds from the first exchange to the last (and a twentieth of that time around them).
    """

    offset_ns: int
    drift: float
    at_ns: int
    error_ns: int

    def theta(self, at_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """This clock minus the other, when this one reads ``at_ns``."""
        moved: NDArray[np.int64] = np.rint((at_ns - self.at_ns) * self.drift).astype(np.int64)
        return self.offset_ns + moved

    def inverse(self) -> Offset:
        """The other clock against this one."""
        drift = 1 - 1 / (1 - self.drift)
        return Offset(
            offset_ns=-self.offset_ns,
            drift=drift,
            at_ns=self.at_ns - self.offset_ns,
            error_ns=_up(self.error_ns * (1 - drift)),
        )

    def after(self, nearer: Offset) -> Offset:
        """This clock against that which ``nearer``'s other is, of which this one's other is it."""
        between = self.at_ns - self.offset_ns
        target = between - int(nearer.theta(np.array([between]))[0])
        return Offset(
            offset_ns=self.at_ns - target,
            drift=1 - (1 - self.drift) * (1 - nearer.drift),
            at_ns=self.at_ns,
            error_ns=_up(self.error_ns * (1 - nearer.drift)) + nearer.error_ns,
        )


@dataclass(frozen=True, kw_only=True)
class ClockEstimate:
    """A host's clock against the run's reference host.

    Attributes:
        host, boot_id: whose clock.
        offset_ns, drift, at_ns, error_ns: the reference's time is
            ``t - offset_ns - (t - at_ns) * drift``, give or take ``error_ns``.
    """

    host: str
    boot_id: str
    offset_ns: int
    drift: float
    at_ns: int
    error_ns: int


def thin(constraints: Constraints) -> Constraints:
    """Those that matter: the hulls, and in each of 256 stretches of time the narrowest.

    Of the thinned ones and more, thinning keeps what it would have kept of all: so a few thousand
    stand for any number.
    """
    if len(constraints) <= _BINS * _KEPT_PER_BIN:
        return constraints
    base = int(np.median(constraints.guess))
    keep = _narrowest(constraints, _BINS)
    keep[lower_hull(constraints.high_at, constraints.high - base)] = True
    keep[lower_hull(constraints.low_at, base - constraints.low)] = True
    return constraints.chosen(keep)


def align(constraints: Constraints) -> Offset | None:
    """The clock of B against that of A; None where nothing is known about them."""
    if not len(constraints):
        return None
    frame = _Frame(thin(constraints))
    slack = _RESOLUTION_NS + WANDER * frame.half
    guess = frame.fitted()
    region = frame.region(slack)
    if len(region):
        line = nearest_line(region, guess)
        error = _farthest(region, line) + slack
    else:
        line = frame.least_violating(guess)
        error = frame.error_without_a_line(line)
    return Offset(
        offset_ns=frame.base + round(line[0]),
        drift=line[1] / frame.half,
        at_ns=frame.origin,
        error_ns=_up(error),
    )


class _Frame:
    """Constraints in numbers that floats hold exactly: time u in [-1, 1], theta = a + c * u."""

    def __init__(self, constraints: Constraints) -> None:
        times = (constraints.low_at, constraints.high_at)
        first, last = min(int(t.min()) for t in times), max(int(t.max()) for t in times)
        self.constraints = constraints
        self.origin = first + (last - first) // 2
        self.half = max((last - first) / 2, 1.0)
        self.base = int(np.median(constraints.guess))
        self.low = self._points(constraints.low_at, constraints.low)
        self.high = self._points(constraints.high_at, constraints.high)

    def _points(self, at: NDArray[np.int64], value: NDArray[np.int64]) -> Points:
        u = (at - self.origin) / self.half
        return np.stack([u, (value - self.base).astype(np.float64)], axis=1)

    def region(self, slack: float) -> Region:
        """Vertices of the polygon of lines within the bounds, each widened by ``slack``."""
        limit = MAX_DRIFT * self.half
        widening = np.array([0.0, slack])
        return region_between(self.low - widening, self.high + widening, limit)

    def fitted(self) -> tuple[float, float]:
        """The line through the guesses of the narrowest: Theil and Sen's, over stretches of time.

        Of little time the slope is mostly noise, so it is drawn towards 0 by what quartz can do.
        """
        times, values = self._medians()
        first, second = np.triu_indices(len(times), 1)
        apart = times[second] - times[first]
        far = apart > 0
        slopes = (values[second] - values[first])[far] / apart[far]
        if not slopes.size:
            return float(np.median(values)), 0.0
        slope = float(np.median(slopes))
        rest = values - slope * times
        noise = max(float(np.median(np.abs(rest - np.median(rest)))) * 1.5, _LEAST_NOISE_NS)
        uncertain = noise**2 / float(np.sum((times - times.mean()) ** 2))
        slope *= 1 / (1 + uncertain / (USUAL_DRIFT * self.half) ** 2)
        return float(np.median(values - slope * times)), slope

    def _medians(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Per stretch of time the median time and guess of its narrowest constraints."""
        chosen = self.constraints.chosen(_narrowest(self.constraints, _BINS_OF_FIT))
        points = self._points(chosen.high_at, chosen.guess)
        bins = _bins(chosen.high_at, _BINS_OF_FIT)
        return _medians_of(points[:, 0], bins), _medians_of(points[:, 1], bins)

    def least_violating(self, guess: tuple[float, float]) -> tuple[float, float]:
        """A line that breaks the bounds by (within a hundredth) as little as any does."""
        too_little, enough = 0.0, _RESOLUTION_NS
        while not len(self.region(enough)):
            too_little, enough = enough, 2 * enough
        while enough - too_little > enough / 100:
            middle = (too_little + enough) / 2
            if len(self.region(middle)):
                enough = middle
            else:
                too_little = middle
        return nearest_line(self.region(enough), guess)

    def error_without_a_line(self, line: tuple[float, float]) -> float:
        """How far theta may be from ``line``, whatever drifts below the maximum do.

        Each of the constraints bounds theta at its own time, and between two of them it can leave
        the worse of their bounds only by as much as clocks drift in the time between.
        """
        fastest = MAX_DRIFT + abs(line[1]) / self.half  # theta away from the line
        chosen = _narrowest(self.constraints, _BINS, keep=1)
        low, high = self.low[chosen], self.high[chosen]
        above = high[:, 1] - (line[0] + line[1] * high[:, 0])
        below = (line[0] + line[1] * low[:, 0]) - low[:, 1]
        length = np.abs(high[:, 0] - low[:, 0]) * self.half  # of the exchange itself
        bound = np.maximum(above, below) + fastest * length
        order = np.argsort(high[:, 0])
        times = np.concatenate([[-_MARGIN], high[order, 0], [_MARGIN]])
        bound = np.pad(bound[order], 1, mode="edge")
        gaps = np.maximum(np.diff(times), 0.0) * self.half
        return float(np.max(np.maximum(bound[1:], bound[:-1]) + fastest * gaps))


def _medians_of(values: NDArray[np.float64], bins: NDArray[np.int64]) -> NDArray[np.float64]:
    """The median in each bin that holds something, in the order of the bins."""
    ordered = values[np.lexsort((values, bins))]
    _, counts = np.unique(bins, return_counts=True)
    begins = np.cumsum(counts) - counts
    middles: NDArray[np.float64] = (
        ordered[begins + (counts - 1) // 2] + ordered[begins + counts // 2]
    ) / 2
    return middles


def _narrowest(constraints: Constraints, bins: int, keep: int = _KEPT_PER_BIN) -> NDArray[np.bool_]:
    """In each stretch of time the ``keep`` that leave theta the least room, as a mask."""
    place = _bins(constraints.high_at, bins)
    order = np.lexsort((constraints.high - constraints.low, place))
    ordered = place[order]
    begins = np.searchsorted(ordered, ordered)
    mask = np.zeros(len(constraints), dtype=np.bool_)
    mask[order[np.arange(len(order)) - begins < keep]] = True
    return mask


def _bins(at: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    first, last = int(at.min()), int(at.max())
    return (at - first) // ((last - first) // count + 1)


def _farthest(region: Region, line: tuple[float, float]) -> float:
    """How far any line of the region lies from this one; lines part most at an end."""
    apart = region - np.asarray(line)
    ends = apart[:, :1] + apart[:, 1:] * np.array([[-_MARGIN, _MARGIN]])
    return float(np.max(np.abs(ends)))


def _up(value: float) -> int:
    return int(np.ceil(value))
