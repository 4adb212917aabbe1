"""Operators that communicate, against the same products in float64 in one process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    InRanks = Callable[..., list[list[dict[str, Any]]]]

CHECK = """
from engine.overlap import operators as op

def part(whole, dim=0):
    return whole.chunk(size, dim)[rank].clone()

def close(ours, exact, dtype):
    scale = exact.abs().max().item()
    limit = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float64: 1e-14}[dtype]
    return (ours.double() - exact).abs().max().item() <= limit * scale

def check(group, rows, k, n, dtype):
    m = rows * size
    shapes = ((m, k), (n * size, k), (k, n * size))
    x, w, v = (torch.randn(*shape, dtype=torch.float64).to(dtype) for shape in shapes)
    g = torch.randn(m, n * size, dtype=torch.float64).to(dtype)
    exact = [t.double().requires_grad_() for t in (x, w, v)]
    h = exact[0] @ exact[1].t()
    y = h @ exact[2].t()
    loss_grad = torch.randn(m, k, dtype=torch.float64)
    y.backward(loss_grad)
    right = []
    # split: tokens gathered into the first product, scattered out of the second
    mine = [part(x).requires_grad_(), part(w).requires_grad_(), part(v, 1).requires_grad_()]
    [hidden] = op.all_gather_matmul(mine[0], [mine[1]], group)
    out = op.matmul_reduce_scatter(hidden, mine[2], group)
    out.backward(part(loss_grad).to(dtype))
    right += [close(out, part(y.detach()), dtype)]
    right += [close(mine[0].grad, part(exact[0].grad), dtype)]
    right += [close(mine[1].grad, part(exact[1].grad), dtype)]
    right += [close(mine[2].grad, part(exact[2].grad, 1), dtype)]
    # replicated: every rank has all tokens before the first and after the second
    again = [x.clone().requires_grad_(), part(w).requires_grad_(), part(v, 1).requires_grad_()]
    [hidden] = op.replicated_matmul(again[0], [again[1]], group)
    all_of_it = op.matmul_all_reduce(hidden, again[2], group)
    all_of_it.backward(loss_grad.to(dtype))
    right += [close(all_of_it, y.detach(), dtype)]
    right += [close(mine.grad, whole, dtype) for mine, whole in zip(
        again, (exact[0].grad, part(exact[1].grad), part(exact[2].grad, 1)))]
    # several weights on one input, and sums of what is there already
    [a, b] = op.all_gather_matmul(part(x), [part(w), part(w) * 2], group)
    right += [torch.equal(2 * a, b)]
    right += [close(op.reduce_scatter(g, group), size * part(g.double()), dtype)]
    right += [close(op.all_reduce(g, group), size * g.double(), dtype)]
    tell(case=[rows, k, n, str(dtype)], right=right)
    return out.detach(), mine[0].grad, all_of_it.detach()
"""


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"choice": "shared"},
        {"choice": "shared", "keep_gathered": True},
        {"choice": "collective"},
    ],
    ids=["shared", "kept", "collective"],
)
def test_values_and_gradients_are_exact(in_ranks: InRanks, size: int, options: object) -> None:
    """Whole and in parts, of even and odd sizes; and bit for bit the same when done again."""
    told = in_ranks(
        CHECK
        + """
group = open_group(**options["group"])
shapes = [(1, 3, 5), (7, 33, 17), (64, 128, 96), (300, 65, 48), (1025, 32, 24)]
for rows, k, n in shapes:
    check(group, rows, k, n, torch.float32)
check(group, 40, 64, 32, torch.bfloat16)
none, some = torch.zeros(0, 4, requires_grad=True), torch.ones(3, 4)
for out in (
    *op.all_gather_matmul(none, [some], group), op.matmul_reduce_scatter(none, some, group),
    op.matmul_all_reduce(none, some, group),
):
    out.sum().backward()
    tell(right=[out.shape == (0, 3), none.grad.shape == (0, 4)])
for rows in (20, 300):
    state = torch.get_rng_state()
    first = check(group, rows, 64, 32, torch.float32)
    torch.set_rng_state(state)
    again = check(group, rows, 64, 32, torch.float32)
    tell(right=[torch.equal(a, b) for a, b in zip(first, again)])
group.close()
""",
        size,
        group=options,
    )
    for each in told:
        assert len(each) == 15
        for line in each:
            assert all(line["right"]), line


@pytest.mark.parametrize("waits", [True, False])
def test_nothing_is_read_before_it_is_written(in_ranks: InRanks, waits: bool) -> None:
    """Ranks late by chance, buffers full of NaN: right; with the waiting taken out: wrong."""
    told = in_ranks(
        CHECK
        + """
from engine.peers.shared import SharedMemory
from engine.peers.workspace import Workspace
begin = Workspace.begin
def begin_spoilt(self, nbytes):
    turn = begin(self, nbytes)
    turn.view(rank, (nbytes // 4,), torch.float32).fill_(float("nan"))
    dist.barrier()
    time.sleep(random.random() * 0.02)
    return turn
Workspace.begin = begin_spoilt
if not options["waits"]:
    SharedMemory.wait = lambda self, rank, epoch, **_: None
group = open_group(choice="shared")
for rows in (8, 200, 8, 400, 200, 8):
    check(group, rows, 48, 16, torch.float32)
dist.barrier()
""",
        3,
        waits=waits,
    )
    right = [all(line["right"]) for each in told for line in each]
    assert len(right) == 18
    assert all(right) if waits else not any(right)


def test_turns_in_flight_are_not_overwritten(in_ranks: InRanks) -> None:
    """Random operations of random sizes, ranks late by chance: each as computed alone."""
    told = in_ranks(
        """
from engine.overlap.addend import Given
group = open_group(choice="shared")
transport, chance, late = group.transport, random.Random(3), random.Random(rank)
wrong = 0
for number in range(400):
    rows, width = chance.choice((1, 3, 200, 260)), chance.choice((1, 7, 64, 300))
    kind = chance.choice(("gather", "scatter", "reduce", "both"))
    def of(r, rows=rows, width=width, number=number):
        return torch.full((rows, width), float(number * size + r))
    if late.random() < 0.2:
        time.sleep(late.random() * 0.003)
    if kind == "gather":
        got = transport.gather(of(rank)).whole()
        wrong += not torch.equal(got, torch.cat([of(r) for r in range(size)]))
    elif kind == "both":
        coming, seen = transport.gather(of(rank)), []
        term = Given(torch.cat([of(rank)] * size))
        total = transport.reduce_scatter(term, lambda: seen.append(coming.whole().clone()))
        wrong += not torch.equal(seen[0], torch.cat([of(r) for r in range(size)]))
        wrong += not torch.equal(total, sum(of(r) for r in range(size)))
    else:
        call = transport.reduce_scatter if kind == "scatter" else transport.all_reduce
        total = call(Given(torch.cat([of(rank)] * size)))
        wrong += not (total == sum(float(number * size + r) for r in range(size))).all()
tell(wrong=wrong)
""",
        3,
    )
    assert told == [[{"wrong": 0}]] * 3
