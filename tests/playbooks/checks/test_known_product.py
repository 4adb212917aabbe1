"""The known product, and that burn-in finds every bit that is not as it must be."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from playbooks.checks.array_product import ArrayProduct
from playbooks.checks.burn_in import Flipped, burn
from playbooks.checks.known_product import DIGEST, LARGEST, factors, known_product, tiles
from playbooks.checks.processors import gpu_count

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")
needs_gpu = pytest.mark.skipif(gpu_count() == 0, reason="this machine has no GPU")
PRODUCT = ArrayProduct()


def test_digest_is_of_the_product_in_integers() -> None:
    a, b = (matrix.astype(np.int64) for matrix in factors())
    product = a @ b
    assert hashlib.sha256(product.astype("<i4").tobytes()).hexdigest() == DIGEST
    assert abs(product).max() == LARGEST
    assert {a.min(), b.min()} == {-8}
    assert {a.max(), b.max()} == {7}


def test_larger_products_are_made_of_tiles() -> None:
    count = tiles(1024)
    big_a, big_b = (np.tile(matrix, (count, count)) for matrix in factors())
    assert np.array_equal(big_a @ big_b, np.tile(known_product() * count, (count, count)))


@settings(max_examples=50, deadline=None)
@given(position=st.integers(0, 512 * 512 - 1), bit=st.integers(0, 31))
def test_every_flipped_bit_of_a_result_is_found(position: int, bit: int) -> None:
    result = PRODUCT.multiply()
    assert PRODUCT.difference(result) == ""
    result.view(np.uint32).reshape(-1)[position] ^= np.uint32(1 << bit)
    element = result.reshape(-1)[position]
    assert element == 0 or f"({position // 512}, {position % 512})" in PRODUCT.difference(result)


@pytest.mark.parametrize("number", [1, 2, 7])
def test_burning_stops_at_the_product_that_is_wrong(number: int) -> None:
    done = burn(Flipped(ArrayProduct(), number), seconds=10.0)
    assert done.products == number
    assert done.wrong.startswith(f"product {number}: 1 of ")


def test_sound_products_are_counted_and_timed() -> None:
    ticks = iter(range(1000))
    done = burn(PRODUCT, seconds=9.5, clock=lambda: float(next(ticks)))
    assert done.wrong == ""
    assert done.flops == PRODUCT.flop  # each product took one tick
    assert done.products == 5


@needs_torch
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_tensors_give_the_same_product_and_show_a_flipped_bit(kind: str) -> None:
    from playbooks.checks.tensor_product import TensorProduct

    product = TensorProduct(device="cpu", kind=kind, size=1024)
    assert burn(product, seconds=0.0).wrong == ""
    assert "1 of 1048576" in burn(Flipped(product, 2), seconds=0.0).wrong


@needs_torch
@needs_gpu
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_gpu_gives_the_known_product(kind: str) -> None:
    from playbooks.checks.tensor_product import TensorProduct

    product = TensorProduct(device="cuda:0", kind=kind, size=8192)
    assert burn(product, seconds=0.2).wrong == ""
    assert burn(Flipped(product, 2), seconds=0.2).wrong
