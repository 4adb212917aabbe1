"""How long prompts and outputs of the named workloads are.

After ShareGPT, Alpaca, L-Eval and LV-Eval; the parameters are those of the serving benchmarks.
Log-normals are given by their median; all are clipped to their range and whole tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable

Tokens = NDArray[np.int64]
Pairs = tuple[Tokens, Tokens]


def sharegpt_like(rng: np.random.Generator, count: int) -> Pairs:
    """Conversations: prompts and answers of some hundred tokens."""
    return _lognormal(rng, count, (60, 1.4), 4, 1024), _lognormal(rng, count, (230, 0.9), 4, 1024)


def alpaca_like(rng: np.random.Generator, count: int) -> Pairs:
    """Instructions: short prompts, short answers."""
    return _lognormal(rng, count, (17, 0.5), 4, 200), _lognormal(rng, count, (40, 0.9), 2, 512)


def heavy_tailed(rng: np.random.Generator, count: int) -> Pairs:
    """Every order of magnitude is as frequent as every other."""
    return _loguniform(rng, count, 4, 1024), _loguniform(rng, count, 1, 1024)


def leval_like(rng: np.random.Generator, count: int) -> Pairs:
    """Documents: most of some thousand tokens, one in eight much longer; short answers."""
    long = rng.random(count) >= 0.87
    usual = _lognormal(rng, count, (8000, 0.75), 2700, 60_000)
    longer = _lognormal(rng, count, (75_000, 0.5), 20_000, 210_000)
    return np.where(long, longer, usual), _lognormal(rng, count, (25, 1.2), 2, 500)


def lveval_like(rng: np.random.Generator, count: int) -> Pairs:
    """Very long documents, of five sizes from 16k to 256k tokens; very short answers."""
    sizes = rng.choice(np.array([16_000, 32_000, 64_000, 128_000, 256_000]), count)
    return _whole(sizes * rng.uniform(0.95, 1.2, count)), _lognormal(rng, count, (20, 0.8), 2, 150)


def mixed(rng: np.random.Generator, count: int) -> Pairs:
    """Equal shares of conversations, documents and very long documents, shuffled."""
    kinds = (sharegpt_like, leval_like, lveval_like)
    parts = [kind(rng, (count + index) // 3) for index, kind in enumerate(kinds)]
    order = rng.permutation(count)
    prompts, outputs = (np.concatenate(each)[order] for each in zip(*parts, strict=True))
    return prompts, outputs


LENGTHS: dict[str, Callable[[np.random.Generator, int], Pairs]] = {
    "sharegpt-like": sharegpt_like,
    "alpaca-like": alpaca_like,
    "heavy-tailed": heavy_tailed,
    "leval-like": leval_like,
    "lveval-like": lveval_like,
    "mixed": mixed,
}


def _lognormal(
    rng: np.random.Generator, count: int, shape: tuple[float, float], low: int, high: int
) -> Tokens:
    median, sigma = shape
    return _whole(np.clip(rng.lognormal(np.log(median), sigma, count), low, high))


def _loguniform(rng: np.random.Generator, count: int, low: int, high: int) -> Tokens:
    return _whole(np.exp(rng.uniform(np.log(low), np.log(high), count)))


def _whole(values: NDArray[np.float64]) -> Tokens:
    return np.rint(values).astype(np.int64)
