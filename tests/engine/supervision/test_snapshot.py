"""A rank's state goes into memory and comes back to the bit; anything else is refused."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the engine extra")

from collectors.errors import DataError  # noqa: E402
from engine.models.config import ModelConfig  # noqa: E402
from engine.models.initialization import initialize  # noqa: E402
from engine.models.transformer import Transformer  # noqa: E402
from engine.supervision.reporter import checksum  # noqa: E402
from engine.supervision.snapshot import Snapshot, restore_from  # noqa: E402
from engine.training.config import OptimizerConfig  # noqa: E402
from engine.training.optimizer import Optimizer  # noqa: E402
from engine.training.weights import tp_cuts, weights_of  # noqa: E402


def trained(steps: int, *, layers: int = 2, dtype: Any = torch.float32) -> Optimizer:
    shape = ModelConfig(
        vocab_size=300,
        hidden_size=16,
        n_layers=layers,
        n_heads=2,
        n_kv_heads=2,
        intermediate_size=32,
        max_seq_len=8,
    )
    model = Transformer(shape)
    initialize(model, seed=0)
    weights = weights_of([model], tp_cuts([model]), dtype)
    optimizer = Optimizer(weights, OptimizerConfig(), decay_steps=9)
    tokens = torch.arange(16).view(2, 8)
    for step in range(1, steps + 1):
        model(tokens, tokens).backward()
        for weight in optimizer.weights:
            weight.take_gradient()
        optimizer.step(step)
        for weight in optimizer.weights:
            weight.drop_gradient()
    return optimizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_comes_back_to_the_bit(dtype: Any) -> None:
    before, after = trained(3, dtype=dtype), trained(1, dtype=dtype)
    piece = Snapshot(before)
    piece.take(before)
    copy = piece.memory(3)
    restore_from(replace(copy, descriptor=os.dup(copy.descriptor)), after)
    assert checksum(after.weights) == checksum(before.weights)
    for ours, theirs in zip(after.weights, before.weights, strict=True):
        assert torch.equal(ours.part, theirs.part)
        assert torch.equal(ours.parameter, theirs.parameter)
        for name, moment in before.slots(theirs).items():
            assert torch.equal(after.slots(ours)[name], moment)


def test_a_flipped_bit_and_another_model_are_refused() -> None:
    optimizer = trained(1)
    piece = Snapshot(optimizer)
    piece.take(optimizer)
    copy = piece.memory(1)
    with pytest.raises(DataError, match="another model"):
        restore_from(replace(copy, descriptor=os.dup(copy.descriptor)), trained(1, layers=1))
    flipped = os.pread(copy.descriptor, 1, copy.size_bytes - 3)[0] ^ 4
    os.pwrite(copy.descriptor, bytes([flipped]), copy.size_bytes - 3)
    with pytest.raises(DataError, match="checksum"):
        restore_from(replace(copy, descriptor=os.dup(copy.descriptor)), optimizer)


def test_any_flipped_bit_of_a_weight_changes_the_checksum() -> None:
    optimizer = trained(1)
    known = checksum(optimizer.weights)
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        weight = optimizer.weights[
            int(torch.randint(len(optimizer.weights), (), generator=generator))
        ]
        bits = weight.part.detach().view(torch.int32).view(-1)
        at = int(torch.randint(bits.numel(), (), generator=generator))
        bit = 1 << int(torch.randint(31, (), generator=generator))
        bits[at] ^= bit
        assert checksum(optimizer.weights) != known
        bits[at] ^= bit
    assert checksum(optimizer.weights) == known
