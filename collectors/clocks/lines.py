"""Lines between points: hulls, and the polygon of all lines that pass between two sets. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Points = NDArray[np.float64]  # [N, 2]: x and y
    Region = NDArray[np.float64]  # [V, 2]: corners (a, c) of a polygon of lines y = a + c * x

_EVERYWHERE = 1e13


def lower_hull(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.int64]:
    """Indices of the points that make the lower convex hull, by ``x``.

    A point above the line between its neighbours is none of the hull; all such are dropped at
    once, until there are none: a few passes over arrays in place of a loop over points.
    """
    order = np.lexsort((y, x))
    first = np.concatenate([[True], np.diff(x[order]) > 0])  # of one x only the lowest
    index: NDArray[np.int64] = order[first]
    while len(index) > 2:
        left, middle, right = index[:-2], index[1:-1], index[2:]
        run = (x[middle] - x[left]).astype(np.float64) * (y[right] - y[left])
        rise = (y[middle] - y[left]).astype(np.float64) * (x[right] - x[left])
        below = rise < run
        if below.all():
            break
        index = index[np.concatenate([[True], below, [True]])]
    return index


def region_between(lower: Points, upper: Points, steepest: float) -> Region:
    """All lines that lie above the points ``lower`` and below ``upper``; empty where none does.

    Args:
        lower, upper: the points.
        steepest: the largest slope, up or down.
    """
    floor = lower[lower_hull(lower[:, 0], -lower[:, 1])]
    ceiling = upper[lower_hull(upper[:, 0], upper[:, 1])]
    big = _EVERYWHERE
    corners = [(-big, -steepest), (big, -steepest), (big, steepest), (-big, steepest)]
    for side, points in ((1.0, floor), (-1.0, ceiling)):
        for x, y in points.tolist():
            corners = _clip(corners, x, y, side)
            if not corners:
                return np.empty((0, 2))
    return np.array(corners)


def _clip(
    corners: list[tuple[float, float]], x: float, y: float, side: float
) -> list[tuple[float, float]]:
    """What of the polygon lies where ``side * (a + c * x - y) >= 0`` (Sutherland and Hodgman)."""
    over = [side * (a + c * x - y) for a, c in corners]
    kept: list[tuple[float, float]] = []
    for i, (here, above) in enumerate(zip(corners, over, strict=True)):
        before, above_before = corners[i - 1], over[i - 1]
        if (above >= 0) != (above_before >= 0):
            part = above_before / (above_before - above)
            kept.append(
                (
                    before[0] + part * (here[0] - before[0]),
                    before[1] + part * (here[1] - before[1]),
                )
            )
        if above >= 0:
            kept.append(here)
    return kept


def nearest_line(region: Region, line: tuple[float, float]) -> tuple[float, float]:
    """The line of the region that is nearest to this one: itself, where it is in it."""
    point = np.asarray(line)
    following = np.roll(region, -1, axis=0)
    edge, to_point = following - region, point - region
    turns = edge[:, 0] * to_point[:, 1] - edge[:, 1] * to_point[:, 0]
    if len(region) > 2 and ((turns >= 0).all() or (turns <= 0).all()) and turns.any():
        return line
    length = np.maximum(np.sum(edge**2, axis=1), np.finfo(np.float64).tiny)
    along = np.clip(np.sum(edge * to_point, axis=1) / length, 0.0, 1.0)
    nearest = region + along[:, None] * edge
    best = nearest[np.argmin(np.sum((nearest - point) ** 2, axis=1))]
    return float(best[0]), float(best[1])
