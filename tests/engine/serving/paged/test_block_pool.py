"""Blocks are held by those who should, lie together where they can, and all come back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs the engine extra")

from engine.serving.paged.block_pool import BlockPool
from engine.serving.paged.free_blocks import FreeBlocks
from engine.serving.paged.prefixes import PrefixIndex


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["take", "after", "give"]), st.integers(0, 30))))
def test_free_blocks_are_a_set(history: list[tuple[str, int]]) -> None:
    free, taken = FreeBlocks(12), set[int]()
    for what, number in history:
        if what == "give" and taken:
            block = sorted(taken)[number % len(taken)]
            free.give(block)
            taken.remove(block)
        elif what == "take" and free.count:
            block = free.take(1 + number % 5)
            assert block not in taken
            taken.add(block)
        elif what == "after" and taken:
            block = sorted(taken)[number % len(taken)] + 1
            begins = block < 12 and block not in taken
            assert free.take_at(block) == begins
            taken |= {block} if begins else set()
        assert taken <= set(range(12))
        assert free.count == 12 - len(taken)
    for block in taken:
        free.give(block)
    assert free.longest == free.count == 12


def test_sequences_that_say_how_long_they_become_lie_together() -> None:
    free = FreeBlocks(12)
    ends = [free.take(4) for _ in range(3)]
    for _ in range(3):
        for row in range(3):
            assert free.take_at(ends[row] + 1)
            ends[row] += 1
    assert free.count == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40)), max_size=60))
def test_the_pool_gives_no_block_twice(history: list[tuple[int, int]]) -> None:
    """Sequences take, publish, share and leave; whoever shares finds what was published."""
    prefixes = PrefixIndex(1, b"salt")
    pool = BlockPool(10, prefixes)
    texts: list[list[int]] = []  # each sequence's blocks; block k holds the token k of its text
    kept: list[tuple[list[int], list[int]]] = []
    for what, number in history:
        if what <= 1 and pool.available:
            own = texts[number % len(texts)] if what and texts else []
            if not own:
                texts.append(own)
            own.append(pool.take(own[-1] if own else None, 1 + number % 4))
        elif what == 2 and texts:
            own = texts[number % len(texts)]
            if any(block in prefixes for block in own):
                continue  # published already
            prefix = prefixes.empty(b"")
            for token, block in enumerate(own):
                found = prefixes.add(block, prefix, [100 * number + token])
                if found is None or block not in prefixes:
                    break
                prefix = found
            kept.append(([100 * number + token for token in range(len(own))], list(own)))
        elif what == 3 and kept:
            tokens, blocks = kept[number % len(kept)]
            shared = [block for block, _ in prefixes.match(tokens, b"")]
            assert len(shared) <= len(blocks)
            for block in shared:
                pool.hold(block)
            if shared:
                texts.append(shared)
        elif what == 4 and texts:
            for block in reversed(texts.pop(number % len(texts))):
                pool.release(block)
        held = {block for own in texts for block in own}
        assert pool.held == len(held)
        assert pool.available == 10 - len(held)
    for own in texts:
        for block in reversed(own):
            pool.release(block)
    pool.forget_idle()
    assert (pool.held, pool.idle, pool.available, len(prefixes)) == (0, 0, 10, 0)
