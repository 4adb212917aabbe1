"""Wrong numbers are wrong in their step, and every other step is what it would have been."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="needs the engine extra")

import torch.distributed as dist  # noqa: E402
from torch import nn  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402

from engine.faults.bits import flip_bit, place_of, top_exponent_bit  # noqa: E402
from engine.faults.grammar import parse_fault  # noqa: E402
from engine.faults.registry import RANK_FAULTS, inject_all  # noqa: E402
from engine.models.config import ModelConfig  # noqa: E402
from engine.models.partition import partition  # noqa: E402
from engine.models.transformer import Transformer  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from engine.faults.place import Place
    from engine.step_hook import StepHook

CONFIG = ModelConfig(
    vocab_size=258, hidden_size=16, n_layers=2, n_heads=2, n_kv_heads=1, intermediate_size=32
)
STEPS = 4
MICRO_BATCHES = 2
STRUCK = 3


def make_model() -> Transformer:
    model = Transformer(CONFIG)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    return model


def gradients(model: nn.Module, hooks: list[StepHook]) -> list[list[Tensor]]:
    """Of each step; the weights stay, so that steps can be compared."""
    found = []
    tokens = torch.arange(32).view(2, 16)
    for step in range(1, STEPS + 1):
        for hook in hooks:
            hook.on_step_begin(step)
        for _ in range(MICRO_BATCHES):
            model(tokens, tokens + step).backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        model.zero_grad()
        for hook in hooks:
            hook.on_step_end(step)
    return found


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    """To the bit."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("text", "all_are_nan"),
    [
        (f"nan-batch:step={STRUCK}", True),
        (f"nan-rank:rank=0,step={STRUCK}", False),
        (f"gradient-flip:rank=0,step={STRUCK}", False),
    ],
)
def test_it_poisons_its_step_and_nothing_else(
    text: str, all_are_nan: bool, place: Place, events: Any
) -> None:
    clean = gradients(make_model(), [])
    model = make_model()
    struck = gradients(model, inject_all([text], replace(place, modules=[model])))
    assert [same(a, b) for a, b in zip(clean, struck, strict=True)] == [True, True, False, True]
    poisoned = [bool(each.isnan().any()) for each in struck[STRUCK - 1]]
    if text.startswith("nan"):
        assert all(poisoned) if all_are_nan else any(poisoned)
    else:
        assert max(float(each.abs().max()) for each in struck[STRUCK - 1]) > 1e6
    assert events.names == ["fault.begin", "fault.end"]
    again = gradients(model, inject_all([text], replace(place, modules=[model])))
    assert all(same(a, b) for a, b in zip(clean, again, strict=True))
    assert events.names == ["fault.begin", "fault.end"]


def test_what_lies_behind_the_first_layer_knows_nothing_of_it(place: Place) -> None:
    """The gradient goes wrong on its way back: the second layer's was made before."""
    clean, model = gradients(make_model(), []), make_model()
    hooks = inject_all([f"nan-rank:rank=0,step={STRUCK}"], replace(place, modules=[model]))
    struck = gradients(model, hooks)[STRUCK - 1]
    names = [name for name, _ in model.named_parameters()]
    for name, one, other in zip(names, clean[STRUCK - 1], struck, strict=True):
        if "layers.1" in name or "lm_head" in name:
            assert torch.equal(one, other)


def test_only_ranks_that_hold_the_beginning_spoil_a_batch(place: Place, events: Any) -> None:
    parts = [Transformer(CONFIG, part=part) for part in partition(CONFIG.n_layers, 2)]
    texts = ["nan-batch:step=1"]
    assert len(inject_all(texts, replace(place, modules=parts[:1]))) == 1
    assert inject_all(texts, replace(place, modules=parts[1:])) == []
    assert len(inject_all(["nan-rank:rank=0,step=1"], replace(place, modules=parts[1:]))) == 1
    assert events.names == []


def test_every_rank_that_holds_the_beginning_strikes_once(place: Place, events: Any) -> None:
    model = make_model()
    for _ in range(2):
        for rank in (0, 1):
            [hook] = inject_all(["nan-batch:step=1"], replace(place, rank=rank, modules=[model]))
            hook.on_step_begin(1)
            hook.close()
    assert events.names == ["fault.begin"] * 2
    assert not model.model.embed_tokens._forward_hooks


def flip(place: Place, text: str, model: nn.Module) -> None:
    [hook] = inject_all([text], replace(place, modules=[model]))
    for step in (1, 2, 3):
        hook.on_step_begin(step)
        hook.on_step_end(step)
    hook.close()


@pytest.mark.parametrize("bit", [0, 22, 30, 31])
def test_a_bit_flips_in_memory(bit: int, place: Place, events: Any) -> None:
    model = make_model()
    before = [p.detach().clone().view(torch.int32) for p in model.parameters()]
    text = f"parameter-flip:rank=0,step=2,bit={bit},seed=7"
    flip(place, text, model)
    after = [p.detach().view(torch.int32) for p in model.parameters()]
    changes = [int((a ^ b)[a != b]) for a, b in zip(before, after, strict=True) if (a != b).any()]
    assert [change % (1 << 32) for change in changes] == [1 << bit]
    [truth] = events.attributes
    parameter = model.get_parameter(truth["parameter"])
    flip_bit(parameter, tuple(truth["indices"]), bit)
    assert same(before, [p.detach().view(torch.int32) for p in model.parameters()])
    flip(place, text, model)  # a replay
    assert same(before, [p.detach().view(torch.int32) for p in model.parameters()])


def test_the_seed_chooses(place: Place, events: Any) -> None:
    for index, seed in enumerate((1, 1, 2)):
        fault = parse_fault(f"parameter-flip:rank=0,step=1,bit=3,seed={seed}", RANK_FAULTS)
        hook = fault.inject(replace(place, modules=[make_model()], index=index))
        assert hook is not None
        hook.on_step_end(1)
    places = [(truth["parameter"], truth["indices"]) for truth in events.attributes]
    assert places[0] == places[1] != places[2]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def own_part(parameter: Tensor) -> Tensor:
    assert isinstance(parameter, DTensor)
    return parameter.to_local().detach()


@pytest.mark.usefixtures("alone")
def test_shards_are_struck_where_they_lie(place: Place, events: Any) -> None:
    """FSDP2's parameters are DTensors, and its hooks are on the same modules."""
    clean, model = gradients(make_model(), []), make_model()
    mesh = init_device_mesh("cpu", (1,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    hooks = inject_all([f"nan-rank:rank=0,step={STRUCK}"], replace(place, modules=[model]))
    tokens = torch.arange(32).view(2, 16)
    for step in range(1, STEPS + 1):
        hooks[0].on_step_begin(step)
        for _ in range(MICRO_BATCHES):
            model(tokens, tokens + step).backward()
        hooks[0].on_step_end(step)
        own = [p.grad.to_local() for p in model.parameters() if isinstance(p.grad, DTensor)]
        assert same(own, clean[step - 1]) == (step != STRUCK)
        model.zero_grad()
    before = [own_part(p).clone() for p in model.parameters()]
    other = replace(place, markers=place.markers / "other")
    flip(other, "parameter-flip:rank=0,step=2,bit=30", model)
    after = [own_part(p) for p in model.parameters()]
    assert sum(int((a != b).sum()) for a, b in zip(before, after, strict=True)) == 1


def test_a_copy_in_another_precision_is_not_struck(place: Place, events: Any) -> None:
    model = make_model().to(torch.bfloat16)
    texts = ["parameter-flip:rank=0,step=1,bit=3"]
    assert inject_all(texts, replace(place, modules=[model])) == []
    assert events.names == ["fault.skipped"]


def test_elements_are_counted_in_rows() -> None:
    tensor = torch.arange(24.0).view(2, 3, 4).transpose(0, 2)  # 4, 3, 2; not contiguous
    for number in range(24):
        assert tensor[place_of(tensor, number)] == tensor.flatten()[number]
    flip_bit(tensor, (3, 2, 1), 31)
    assert float(tensor[3, 2, 1]) == -23.0
    assert [top_exponent_bit(t) for t in (torch.float32, torch.bfloat16)] == [30, 14]
