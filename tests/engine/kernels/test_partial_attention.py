"""Attention over several instances, in Triton's interpreter, against attention to whole texts in
float64; and what the compiler makes of it. No GPU has run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("triton", reason="needs the engine extra, on Linux")

# Keys and values of whole texts, and attention to them: what all parts must add up to.
TEXTS = """
import json, math, random, torch
from engine.kernels import partial_decode, stripe_attention
from engine.kernels.partial_softmax import Partial, folded, merge
from engine.kernels.stripe_attention import tiling
from engine.kernels.stripes import Meeting, Stripe

torch.manual_seed(1)
chance = random.Random(1)

def drawn(tokens, heads, width, dtype):
    return torch.randn(tokens, heads, width).to(dtype)

def whole(q, k, v, first, window):  # the last tokens of a text to all of it, in float64
    k, v = (each.double().repeat_interleave(q.shape[1] // each.shape[1], dim=1) for each in (k, v))
    back = torch.arange(first, len(k))[:, None] - torch.arange(len(k))
    scores = torch.einsum("qhd,khd->hqk", q.double(), k) / math.sqrt(q.shape[2])
    scores = scores.masked_fill((back < 0) | (back >= (window or len(k))), -math.inf)
    out = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
    return Partial(out, scores.logsumexp(-1).t())

def tell(kind, found, exact, **more):
    far = max((a.double() - b).abs().max().item() for a, b in ((found.out, exact.out),
              (found.lse, exact.lse)))
    print(json.dumps({"kind": kind, "far": far, **more}))
"""

STRIPES = """
def apart(tensors):  # one behind another, and what is not theirs is NaN
    gap = torch.full_like(tensors[0][:1].expand(3, -1, -1), float("nan"))
    rows, parts, row = [], [], 0
    for each in tensors:
        rows.append(row + 3)
        parts += [gap, each]
        row += 3 + len(each)
    return torch.cat([*parts, gap]), rows

def ring(dtype, heads, shared, width, window, instances, texts):
    # Each text: tokens that are cached, and computed in stripes. The cached ones lie in runs.
    known = [[drawn(c + n, shared, width, dtype) for _ in range(2)] for c, n in texts]
    asked = [drawn(n, heads, width, dtype) for _, n in texts]
    for r in range(instances):
        q, first = apart([each[r::instances] for each in asked])
        own = [Stripe(row, len(each[r::instances]), c + r, instances)
               for row, each, (c, _) in zip(first, asked, texts)]
        partial = Partial.nothing(q)
        plain = Partial.nothing(q.double())
        bundles = []
        for s in range(instances):
            (keys, rows), (values, _) = (
                apart([text[i][c + s::instances] for text, (c, _) in zip(known, texts)])
                for i in range(2))
            met = [[Stripe(row, len(range(s, n, instances)), c + s, instances)]
                   for row, (c, n) in zip(rows, texts)]
            bundles.append((keys, values, met))
        cuts = [sorted({0, c, *(chance.randint(0, c) for _ in range(3))}) for c, _ in texts]
        runs = [list(zip(cut, cut[1:])) for cut in cuts]
        for run in runs:
            chance.shuffle(run)
        flat = [(i, begin, end) for i, run in enumerate(runs) for begin, end in run]
        if flat:
            (keys, rows), (values, _) = (
                apart([known[i][side][begin:end] for i, begin, end in flat]) for side in range(2))
            met = [[] for _ in texts]
            for (i, begin, end), row in zip(flat, rows):
                met[i].append(Stripe(row, end - begin, begin))
            bundles.insert(1, (keys, values, met))
        for keys, values, met in bundles:
            meetings = [Meeting(*each) for each in zip(own, met)]
            by_head = [each.transpose(0, 1).contiguous().transpose(0, 1) for each in (keys, values)]
            stripe_attention.stripe_attention(
                partial, q, *by_head, tiling(meetings, q), window=window)
            stripe_attention.reference(
                plain, q.double(), keys.double(), values.double(), meetings, window=window)
        for stripe, (k, v), mine, (c, _) in zip(own, known, asked, texts):
            exact = whole(mine, k, v, c, window)
            exact = Partial(exact.out[r::instances], exact.lse[r::instances])
            rows = slice(stripe.row, stripe.row + stripe.tokens)
            if stripe.tokens:
                for kind, each in (("kernel", partial), ("reference", plain)):
                    tell(kind, Partial(each.out[rows], each.lse[rows]), exact, dtype=str(dtype),
                         rank=r, texts=texts)
        beside = torch.ones(len(q), dtype=torch.bool)
        for stripe in own:
            beside[stripe.row : stripe.row + stripe.tokens] = False
        assert not partial.out[beside].any() and (partial.lse[beside] == -math.inf).all()

for dtype in (torch.float32, torch.float16):
    ring(dtype, 4, 2, 16, 0, 2, [(0, 130), (70, 3), (0, 1)])
    ring(dtype, 3, 1, 24, 30, 3, [(50, 100), (5, 31)])
ring(torch.float32, 2, 2, 32, 0, 3, [(33, 100), (0, 65)])
ring(torch.float32, 2, 1, 16, 1, 1, [(20, 70)])
ring(torch.float32, 2, 1, 16, 7, 4, [(30, 160)])
"""

DECODES = """
def pool(shared, width, slots, dtype):
    return [torch.full((shared, slots, width), float("nan"), dtype=dtype).transpose(0, 1)
            for _ in range(2)]

def runs_of(slots):  # neighbours, in this order
    runs = []
    for slot in slots:
        if runs and sum(runs[-1]) == slot:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((slot, 1))
    return runs

def decode(dtype, heads, shared, width, instances, lengths):
    # Tokens of each text lie anywhere: in runs on some of the instances.
    q = drawn(len(lengths), heads, width, dtype)
    known = [[drawn(n, shared, width, dtype) for _ in range(2)] for n in lengths]
    exact = [whole(q[i:i + 1], *(each for each in pair), len(pair[0]) - 1, 0)
             for i, pair in enumerate(known)]
    exact = Partial(*(torch.cat(each) for each in zip(*((e.out, e.lse) for e in exact))))
    capacity = 40 + sum(lengths)
    pools = [pool(shared, width, capacity, dtype) for _ in range(instances)]
    free = [list(range(capacity)) for _ in range(instances)]
    held = [[[] for _ in lengths] for _ in range(instances)]
    for i, length in enumerate(lengths):
        token = 0
        while token < length:
            instance = chance.randrange(instances)
            count = min(chance.choice((1, 5, 300)), length - token)
            at = chance.randrange(len(free[instance]) - count + 1)
            slots = free[instance][at:at + count]
            del free[instance][at:at + count]
            for side, own in enumerate(pools[instance]):
                own[slots] = known[i][side][token:token + count]
            held[instance][i] += slots
            token += count
    outs, lses, order, bounds = [], [], [[] for _ in lengths], [0]
    plain = Partial.nothing(q.double())
    for own, slots in zip(pools, held):
        asked = [i for i in range(len(lengths)) if slots[i]]  # the others are not sent there
        runs = [runs_of(slots[i]) for i in asked]
        part = partial_decode.partial_decode(
            q[asked], *own, partial_decode.Pieces.of(runs, q.device))
        for row, i in enumerate(asked):
            order[i].append(sum(map(len, lses)) + row)
        outs.append(part.out)
        lses.append(part.lse)
        every = [runs_of(each) for each in slots]
        safe = [torch.nan_to_num(each).double() for each in own]
        part = partial_decode.reference(q.double(), *safe, every)
        plain = folded(plain, part)
    for each in order:
        bounds.append(bounds[-1] + len(each))
    table = [torch.tensor(each, dtype=torch.int32) for each in (sum(order, []), bounds)]
    found = merge(Partial(torch.cat(outs), torch.cat(lses)), *table)
    for kind, each in (("kernel", found), ("reference", plain)):
        tell(kind, each, exact, dtype=str(dtype), lengths=lengths)

for dtype in (torch.float32, torch.float16):
    decode(dtype, 4, 2, 16, 3, [1, 17, 700])
    decode(dtype, 6, 1, 24, 2, [530, 64, 2])
    decode(dtype, 2, 2, 32, 1, [3, 40])
many = Partial(drawn(75, 3, 24, torch.float32), 9 * torch.randn(75, 3))
order, ends = torch.randperm(75).int(), [0, 2, 2, 42, 75]
found = merge(many, order, torch.tensor(ends, dtype=torch.int32))
for query, (begin, end) in enumerate(zip(ends, ends[1:])):
    plain = Partial.nothing(torch.zeros(1, 3, 24, dtype=torch.float64))
    for row in order[begin:end].tolist():
        plain = folded(plain, Partial(*(e[row:row + 1].double() for e in (many.out, many.lse))))
    if end > begin:
        tell("kernel", Partial(found.out[query:query + 1], found.lse[query:query + 1]), plain)
nothing = Partial.nothing(torch.randn(2, 2, 16))
none = torch.zeros(3, dtype=torch.int32)
empty = merge(nothing, none, none)
assert not empty.out.any() and (empty.lse == -math.inf).all()
both = merge(nothing, torch.arange(2, dtype=torch.int32), torch.tensor([0, 2, 2]).int())
assert not both.out.any() and (both.lse == -math.inf).all()
"""


def _told(program: str) -> list[dict[str, Any]]:
    told = subprocess.run(
        [sys.executable, "-c", TEXTS + program],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    return [json.loads(line) for line in told.stdout.splitlines()]


def _check(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        bound = 1e-12 if line["kind"] == "reference" else 1e-5
        if line["kind"] == "kernel" and line.get("dtype") == "torch.float16":
            bound = 4e-3
        assert line["far"] < bound, line


def test_stripes_that_have_met_on_a_ring_are_attention_to_whole_texts() -> None:
    """Many texts in a launch, cached runs, groups, windows, odd widths; the rest is NaN."""
    lines = _told(STRIPES)
    kernel = [line for line in lines if line["kind"] == "kernel"]
    assert len(kernel) == 2 * (2 + 2 + 1 + 2 * 3) + 2 * 3 + 1 + 4  # stripes that are not empty
    assert len(lines) == 2 * len(kernel)
    _check(lines)


def test_partial_results_of_pools_merge_into_attention_to_whole_texts() -> None:
    """Tokens anywhere, texts in several pieces, queries that some pools know nothing of."""
    lines = _told(DECODES)
    assert len(lines) == 2 * 2 * 3 + 3
    _check(lines)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("arch", "widths"),
    [
        pytest.param(80, (64, 128, 256), marks=SLOW),
        (90, (128,)),
        pytest.param(90, (64, 256), marks=SLOW),
        pytest.param(100, (64, 128, 256), marks=SLOW),
    ],
)
def test_the_compiler_keeps_them_in_registers(arch: int, widths: tuple[int, ...]) -> None:
    """And they load keys and values 16 bytes at a time, asynchronously."""
    from engine.kernels.partial_ahead_of_time import compile_partial
    from engine.overlap.kernels.tile_shape import SHARED_LIMITS

    compiled = list(compile_partial(arch, widths))
    assert len(compiled) == len(widths) * 5
    for each in compiled:
        assert not each.spills, each
        assert each.shared_bytes <= SHARED_LIMITS[arch], each
        if "merge" not in each.kernel:
            assert any("LDGSTS" in name and name.endswith(".128") for name in each.instructions)
            assert not any(".U16" in name for name in each.instructions if "LDG" in name), each
