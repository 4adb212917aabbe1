"""Where one rank lags behind its peers and behind itself: stretches of steps, with their size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from playbooks.segments import Segment, block_noise, maximal_segments, outside, step_noise
from playbooks.step_times import peer_median

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_SLOWDOWN = 1.15  # below this a slow stretch is not worth a person's time
MIN_STEPS = 8  # a shorter stretch cannot be told from a hiccup
_CLEAR = np.log(1.5)  # in all stretches of the run: however noisy the host, that is a lag
_SIGMAS = 4.0
_ENOUGH_STEPS = 48  # of fewer steps, what is usual and what is noise is known less well
_CLIP = np.log(3.0)  # one monstrous step may not speak for its neighbours
_DOMINANT_SHARE = 0.5  # of the run
_PERSISTENT_SHARE = 0.8  # of the run: then there is no healthy past to compare with


@dataclass(frozen=True, kw_only=True)
class Lag:
    """Steps in which one rank lags.

    Attributes:
        excess: by how much, as the logarithm of a ratio.
        sigmas: its size in the run's own noise.
    """

    segment: Segment
    excess: float
    sigmas: float


def find_lags(work: NDArray[np.float64], rank: int) -> list[Lag]:
    """The stretches in which this rank lags behind its peers."""
    against_peers = np.log(_floored(work[:, rank]) / _floored(peer_median(work, rank)))
    persistent = _persistent(against_peers)
    if persistent:
        return [persistent]
    usual = float(np.quantile(against_peers, 0.25))
    own = np.log(_floored(work[:, rank]))
    against_past = own - float(np.quantile(own, 0.25))
    # Lighter work than the peers' is no debt: slower than oneself is not yet slower than they.
    rise = np.minimum(against_peers - max(usual, 0.0), against_past)
    found = _lags(np.clip(rise, -_CLIP, _CLIP))
    dominant = None if found else _dominant(against_peers, own)
    return [dominant] if dominant else found


def _persistent(against_peers: NDArray[np.float64]) -> Lag | None:
    """The whole run, if the rank lay above its peers in nearly all of it."""
    excess = float(np.median(against_peers))
    above = np.mean(against_peers > np.log(MIN_SLOWDOWN) / 2)
    noise = block_noise(against_peers, MIN_STEPS)
    clear = _least_block(against_peers) >= _CLEAR * _scarcity(against_peers.size)
    if above < _PERSISTENT_SHARE or not (clear or _material(excess, noise, against_peers.size)):
        return None
    everything = Segment(0, against_peers.size)
    return Lag(segment=everything, excess=excess, sigmas=excess / max(noise, 1e-9))


def _dominant(against_peers: NDArray[np.float64], own: NDArray[np.float64]) -> Lag | None:
    """Most of the run, but not all: the quiet part is too short to be the lower quartile."""
    raised = max(_raised(against_peers), key=len, default=None)
    if raised is None or len(raised) < _DOMINANT_SHARE * own.size:
        return None
    segment = _borders(against_peers, raised)
    inside, quiet = against_peers[segment.slice], own[outside(own.size, [segment])]
    against_past = float(np.median(own[segment.slice]) - np.median(quiet)) if quiet.size else np.inf
    excess = min(float(np.median(inside)), against_past)
    noise = block_noise(inside, MIN_STEPS)
    if len(segment) < MIN_STEPS or not _material(excess, noise, own.size):
        return None
    return Lag(segment=segment, excess=excess, sigmas=excess / max(noise, 1e-9))


def _lags(rise: NDArray[np.float64]) -> list[Lag]:
    """Where ``rise`` stays up, with borders half-way between the usual and the raised level."""
    raised = _raised(rise)
    quiet = rise[outside(rise.size, raised)]
    usual = float(np.median(quiet)) if quiet.size else 0.0
    found = []
    for segment in raised:
        borders = _borders(rise, segment)
        excess = float(np.median(rise[borders.slice])) - usual
        noise = max(block_noise(quiet, len(borders)), step_noise(rise) / len(borders) ** 0.5)
        if len(borders) >= MIN_STEPS and _material(excess, noise, rise.size):
            found.append(Lag(segment=borders, excess=excess, sigmas=excess / max(noise, 1e-9)))
    return found


def _raised(rise: NDArray[np.float64]) -> list[Segment]:
    level = max(np.log(MIN_SLOWDOWN) / 2, step_noise(rise))
    segments = maximal_segments(rise - level)
    return [segment for segment in segments if len(segment) >= MIN_STEPS]


def _borders(rise: NDArray[np.float64], segment: Segment) -> Segment:
    """The part of the segment that votes for its own level rather than for the usual one."""
    votes = np.full_like(rise, -_CLIP)
    votes[segment.slice] = rise[segment.slice] - float(np.median(rise[segment.slice])) / 2
    return max(maximal_segments(votes), key=len, default=segment)


def _material(excess: float, noise: float, steps: int) -> bool:
    """Whether a lag found in a run of so many steps is one; a short run must show it plainly."""
    scarcity = _scarcity(steps)
    return bool(excess >= max(np.log(MIN_SLOWDOWN) * scarcity, _SIGMAS * noise * np.sqrt(scarcity)))


def _scarcity(steps: int) -> float:
    return max(1.0, _ENOUGH_STEPS / steps)


def _least_block(values: NDArray[np.float64]) -> float:
    """The least mean of consecutive values, as many as a stretch has at least."""
    return float(np.min(np.convolve(values, np.full(MIN_STEPS, 1 / MIN_STEPS), mode="valid")))


def _floored(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Times as divisors: never zero."""
    return np.maximum(seconds, 1e-9)
