"""The whole model over a tensor-parallel group, against the same model in one process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    InRanks = Callable[..., list[list[dict[str, Any]]]]

LEARN = """
from engine.models.config import ModelConfig
from engine.models.initialization import initialize
from engine.models.sharding import gather, shard_dim
from engine.models.transformer import Transformer
from engine.training.optimizer import sum_over

config = ModelConfig(
    vocab_size=300, hidden_size=24, n_layers=2, n_heads=6, n_kv_heads=6, intermediate_size=36,
    max_seq_len=256, **options["model"],
)
tokens = torch.randint(0, 300, (2, options["length"]))
targets = torch.randint(0, 300, (2, options["length"]))

def learn(model, tp):
    initialize(model, 5, tp)
    loss = model(tokens, targets)
    loss.backward()
    if tp is not None and model.splits(tokens.numel()):
        sum_over(tp, [p for p in model.parameters() if shard_dim(p) is None])
    return loss.item(), {n: gather(p.grad, p, tp) for n, p in model.named_parameters()}

alone, exact = learn(Transformer(config), None)
for choice in ("shared", "collective"):
    for kept in (False, True):
        group = open_group(choice=choice, keep_gathered=kept)
        for split in (False, True):
            model = Transformer(config, group, split=split)
            loss, gradients = learn(model, group)
            far = max((gradients[n] - exact[n]).abs().max().item() for n in exact)
            splits = model.splits(tokens.numel())
            tell(way=[choice, kept, split], splits=splits, loss=loss - alone, far=far)
        group.close()
"""


def test_losses_and_gradients_are_those_of_one_process(in_ranks: InRanks) -> None:
    """In every way and layout; tokens that cannot be split evenly stay whole."""
    megascale = {"parallel_block": True, "window": 30}
    for size, length, splittable, model in ((2, 205, True, megascale), (3, 35, False, {})):
        for told in in_ranks(LEARN, size, length=length, model=model):
            assert len(told) == 8
            for line in told:
                assert line["splits"] == (splittable and line["way"][2])
                assert abs(line["loss"]) < 2e-6, line
                assert line["far"] < 2e-6, line
