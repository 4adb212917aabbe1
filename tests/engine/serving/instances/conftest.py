"""Fleets of instances as threads of one process, over memory that they have in common."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.models.transformer import Transformer
    from engine.serving.instances.instance import Instance
    from engine.serving.instances.step import Done, Step

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"window": 7},
    "qwen2": {"qkv_bias": True, "tie_embeddings": True},
    "qwen3": {"qk_norm": True, "head_size": 16, "n_kv_heads": 1},
}
VOCABULARY = 260


def make_model(family: str) -> Transformer:
    """Two layers; weights are large enough that top scores are well apart."""
    import torch

    from engine.models.config import ModelConfig
    from engine.models.transformer import Transformer

    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2,
        "intermediate_size": 48, "max_seq_len": 256,
    }  # fmt: skip
    model = Transformer(ModelConfig(**(shape | FAMILIES[family]))).requires_grad_(False)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        scale = 0.3 if parameter.dim() > 1 else 1.0
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


@dataclass
class Fleet:
    """Attributes:
    model: the plain one.
    exact: in float64.
    """

    model: Transformer
    exact: Transformer
    instances: list[Instance]
    threads: ThreadPoolExecutor
    steps: int = 0

    def next_step(self) -> int:
        """Its number: they grow as long as the instances live."""
        self.steps += 1
        return self.steps

    def execute(self, *steps: Step) -> list[Done]:
        """Of disjoint groups, at the same time."""
        futures = [
            self.threads.submit(self.instances[each].execute, step)
            for step in steps
            for each in step.instances
        ]
        return [each.result(timeout=30) for each in futures]

    def close(self) -> None:
        self.threads.shutdown()
        for each in self.instances:
            exchange: Any = each.exchange
            exchange.close()


def make(family: str, instances: int, slots: int) -> Fleet:
    """Their pools hold NaN: what is not written must not be read."""
    import torch

    from engine.serving.instances.instance import Instance
    from engine.serving.instances.pool import PoolShape
    from engine.serving.instances.shared_exchange import SharedExchange

    model = make_model(family)
    shape = PoolShape.of(model.config, torch.float32)
    exchanges = [SharedExchange(number, shape, slots, timeout_s=20) for number in range(instances)]
    for each in exchanges:
        for stored in (*each.pool.keys, *each.pool.values):
            stored.fill_(float("nan"))
        for other in exchanges:
            if other is not each:
                each.set_peer(other.instance, other.pid, other.descriptor, other.nbytes)
    made = [Instance(make_model(family), each.pool, each) for each in exchanges]
    return Fleet(model, make_model(family).double(), made, ThreadPoolExecutor(instances))


@pytest.fixture(scope="session")
def make_fleet() -> Iterator[Callable[..., Fleet]]:
    """To be called with a family, a number of instances and of slots; made once for each."""
    torch = pytest.importorskip("torch", reason="needs the engine extra")
    from engine.peers.machine import unusable_here

    if why := unusable_here():
        pytest.skip(f"memory in common: {why}")
    torch.set_num_threads(1)
    fleets: dict[tuple[str, int, int], Fleet] = {}

    def made(family: str, instances: int, slots: int) -> Fleet:
        key = (family, instances, slots)
        if key not in fleets:
            fleets[key] = make(*key)
        return fleets[key]

    yield made
    for each in fleets.values():
        each.close()
