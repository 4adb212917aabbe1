"""Attention of elastic sequence parallelism: right on random shapes, and how long it takes at the
shape of LoongServe's model (arXiv 2404.09526), of one instance of a ring or of a decode."""

from __future__ import annotations

import random
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom

from benchmarks.gpu.checks import FAR, distance
from benchmarks.gpu.session import drawn, seconds_of
from engine.kernels import partial_decode, stripe_attention
from engine.kernels.paged_attention import paged_attention
from engine.kernels.partial_softmax import Partial
from engine.kernels.stripes import Meeting, Stripe

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.gpu.session import Call, Session

_SHAPE, _DRY_SHAPE = (32, 128), (2, 16)  # heads, and their width; each has keys of its own
_PREFILLS = (4096, 16_384, 32_768, 100_000)  # tokens of a text
_DOP = 4
_DECODES = ((1, 4096), (64, 4096), (16, 32_768), (1, 100_000), (8, 100_000))  # texts, their tokens
_BLOCK_TOKENS = 16  # of paged attention


def check_elastic(session: Session) -> dict[str, Any]:
    """Stripes and partial decodes against their references in float64."""
    chance = random.Random(7)  # noqa: S311 - the same cases each time
    worst: dict[str, float] = {}
    cases = 0
    for dtype in session.dtypes:
        if dtype not in FAR or dtype.itemsize == 1:
            continue
        for _ in range(1 if session.dry else 12):
            shared, width = chance.choice((1, 2, 4)), chance.choice((64, 128))
            q_heads = shared * chance.choice((1, 3, 4))
            for check in (_stripes_apart, _decodes_apart):
                far = check(session, dtype, (q_heads, shared, width), chance)
                name = f"{check.__name__.removeprefix('_')} {dtype}"
                worst[name] = max(worst.get(name, 0.0), far)
                cases += 1
                if not far <= FAR[dtype]:  # nor NaN
                    raise AssertionError(f"{name}: {far} at {q_heads=} {shared=} {width=}")
    return {"cases": cases, "worst": worst}


def _stripes_apart(
    session: Session, dtype: torch.dtype, heads: tuple[int, int, int], chance: random.Random
) -> float:
    """Of a ring of a few instances, at its first, with a window or none."""
    instances = chance.choice((2, 3, 4))
    window = chance.choice((0, 50))
    longest = 40 if session.dry else 1500
    texts = [chance.randint(instances, longest) for _ in range(3)]
    q_heads, shared, width = heads
    rows = [-(-each // instances) for each in texts]
    q = drawn((sum(rows), q_heads, width), dtype, session.device)
    ours, exact = Partial.nothing(q), Partial.nothing(q.double())
    for other in range(instances):
        keys, values = (drawn((sum(rows), shared, width), dtype, session.device) for _ in range(2))
        meetings, row = [], 0
        for text, own in zip(texts, rows, strict=True):
            theirs = len(range(other, text, instances))
            stripe = Stripe(row, theirs, other, instances)
            meetings.append(Meeting(Stripe(row, own, 0, instances), (stripe,)))
            row += own
        tiles = stripe_attention.tiling(meetings, q)
        stripe_attention.stripe_attention(ours, q, keys, values, tiles, window=window)
        k, v = keys.double(), values.double()
        stripe_attention.reference(exact, q.double(), k, v, meetings, window=window)
    return _apart(ours, exact)


def _decodes_apart(
    session: Session, dtype: torch.dtype, heads: tuple[int, int, int], chance: random.Random
) -> float:
    """Of a few texts in runs of a pool, one of them long enough for several pieces."""
    q_heads, shared, width = heads
    lengths = [1, chance.randint(2, 100), partial_decode.PIECE_TOKENS + chance.randint(1, 100)]
    q = drawn((len(lengths), q_heads, width), dtype, session.device)
    keys, values = (drawn((2048, shared, width), dtype, session.device) for _ in range(2))
    runs = [
        [(at * 700, length // 2), (at * 700 + 350, length - length // 2)]
        for at, length in enumerate(lengths)
    ]
    pieces = partial_decode.Pieces.of(runs, session.device)
    ours = partial_decode.partial_decode(q, keys, values, pieces)
    exact = partial_decode.reference(q.double(), keys.double(), values.double(), runs)
    return _apart(ours, exact)


def _apart(ours: Partial, exact: Partial) -> float:
    return max(distance(ours.out, exact.out), distance(ours.lse, exact.lse))


def time_elastic(session: Session) -> list[dict[str, Any]]:
    """One row a length of a text, for prefill, and one a batch, for decode."""
    rows = [time_stripe(session, context) for context in _PREFILLS]
    return rows + [time_decode(session, *batch) for batch in _DECODES]


def time_stripe(session: Session, context: int) -> dict[str, Any]:
    """One step of a ring: an instance's queries meet another's keys. Beside it causal attention by
    torch to as many keys, the least that a step could cost."""
    tokens = session.sized(context // _DOP)
    told: dict[str, Any] = {"name": f"stripe of {context} tokens / {_DOP}", "tokens": tokens}
    if not session.has(30):
        return told | {"skipped": "no time left"}
    heads, width = _DRY_SHAPE if session.dry else _SHAPE
    q, keys, values = (drawn((tokens, heads, width), session.half, session.device) for _ in "qkv")
    partial = Partial.nothing(q)
    meeting = Meeting(Stripe(0, tokens, 1, _DOP), (Stripe(0, tokens, 0, _DOP),))
    tiles = stripe_attention.tiling([meeting], q)
    queries, k, v = (each.transpose(0, 1).unsqueeze(0) for each in (q, keys, values))
    ways: dict[str, Call] = {
        "own": lambda: stripe_attention.stripe_attention(partial, q, keys, values, tiles),
        "torch": lambda: F.scaled_dot_product_attention(queries, k, v, is_causal=True),
    }
    times = seconds_of(ways, session)
    operations = 2 * heads * width * tokens * (tokens + 1)  # two products of the keys seen
    return told | {
        "own_ms": 1e3 * median(times["own"]),
        "torch_ms": 1e3 * median(times["torch"]),
        "own_tflops": 1e-12 * operations / median(times["own"]),
    }


def time_decode(session: Session, batch: int, context: int) -> dict[str, Any]:
    """Single queries to tokens that lie anywhere in a pool. Beside it paged attention, which takes
    no text in pieces."""
    context = max(_BLOCK_TOKENS, session.sized(context) // _BLOCK_TOKENS * _BLOCK_TOKENS)
    batch = min(batch, 2) if session.dry else batch
    told: dict[str, Any] = {"name": f"partial decode of {batch} x {context} tokens"}
    if not session.has(30):
        return told | {"skipped": "no time left"}
    heads, width = _DRY_SHAPE if session.dry else _SHAPE
    device, slots = session.device, batch * context
    q = drawn((batch, heads, width), session.half, device)
    keys, values = (
        torch.randn(heads, slots, width, device=device, dtype=session.half) for _ in range(2)
    )
    blocks = torch.randperm(slots // _BLOCK_TOKENS).view(batch, -1)
    runs = [[(at * _BLOCK_TOKENS, _BLOCK_TOKENS) for at in own] for own in blocks.tolist()]
    pieces = partial_decode.Pieces.of(runs, device)
    tables = blocks.to(device, torch.int32)
    lengths = torch.full((batch,), context, device=device, dtype=torch.int32)
    pool: tuple[Tensor, Tensor] = (keys.transpose(0, 1), values.transpose(0, 1))
    ways: dict[str, Call] = {
        "own": lambda: partial_decode.partial_decode(q, *pool, pieces),
        "paged": lambda: paged_attention(
            q, keys, values, tables, lengths, block_tokens=_BLOCK_TOKENS
        ),
    }
    times = seconds_of(ways, session)
    return told | {
        "own_ms": 1e3 * median(times["own"]),
        "paged_ms": 1e3 * median(times["paged"]),
        "own_gb_per_s": 1e-9 * (keys.nbytes + values.nbytes) / median(times["own"]),
        "apart": _apart_of(ways),
    }


def _apart_of(ways: dict[str, Call]) -> float:
    """The two ways' results."""
    own, paged = ways["own"](), ways["paged"]()
    assert isinstance(own, Partial)
    assert isinstance(paged, torch.Tensor)
    return float((own.out - paged.float()).abs().max())
