"""Instances that exchange by torch.distributed: the same tokens, counted bytes, and what happens to
the rest when one of them dies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="needs the engine extra")

import msgspec  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.serving.instances.step import Done, Step
    from tests.engine.serving.instances.conftest import Fleet, Manager

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
import msgspec, torch
import torch.distributed as dist
from tests.engine.serving.instances.conftest import SLOTS, make_model
from engine.serving.instances.distributed_exchange import DistributedExchange
from engine.serving.instances.instance import Instance
from engine.serving.instances.pool import PoolShape, TokenPool
from engine.serving.instances.step import Step

directory, size, victim = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
children = []
for rank in range(size):
    pid = os.fork()
    if not pid:
        break
    children.append(pid)
else:
    failed = [n for n, pid in enumerate(children) if os.waitpid(pid, 0)[1] and n != victim]
    sys.exit(f"instances {failed} failed" if failed else 0)

dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=size)
model = make_model(sys.argv[4])
pool = TokenPool(PoolShape.of(model.config, torch.float32), SLOTS)
for stored in (*pool.keys, *pool.values):
    stored.fill_(float("nan"))
exchange = DistributedExchange(rank, pool, {each: each for each in range(size)}, timeout_s=20)
instance = Instance(model, pool, exchange)
steps = msgspec.msgpack.decode((directory / "steps").read_bytes(), type=list[Step])
if rank == victim:
    give = exchange.give_stripe
    def give_and_end(layer, k, v):
        given = give(layer, k, v)
        if layer:
            os.kill(os.getpid(), signal.SIGKILL)
        return given
    exchange.give_stripe = give_and_end
done = [instance.execute(step) for step in steps if rank in step.instances]
(directory / f"done-{rank}").write_bytes(msgspec.msgpack.encode(done))
sys.stdout.flush()
os._exit(0)
"""


def executed(
    directory: Path, steps: Sequence[Step], *, size: int, family: str, victim: int = -1
) -> list[Done]:
    """By processes of their own, one for each instance; nothing is told of the victim."""
    from engine.serving.instances.step import Done

    (directory / "steps").write_bytes(msgspec.msgpack.encode(steps))
    script = directory / "instances.py"
    script.write_text(PROGRAM)
    sources = Path(__file__).parents[4]
    subprocess.run(
        [sys.executable, "-P", str(script), str(directory), str(size), str(victim), family],
        check=True,
        timeout=100,
        env={
            **os.environ,
            "PYTHONPATH": str(sources),
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
        },
    )
    told = [directory / f"done-{each}" for each in range(size) if each != victim]
    return [
        done for path in told for done in msgspec.msgpack.decode(path.read_bytes(), type=list[Done])
    ]


def test_recorded_schedules_give_the_same_tokens_and_count_the_same_bytes(
    tmp_path: Path, make_fleet: Callable[..., Fleet], make_manager: Callable[..., Manager]
) -> None:
    """What a fleet with memory in common was told: so the bytes that pass it by counting are those
    that are sent."""
    fleet = make_fleet("llama", 3)
    managers = [make_manager(fleet, seed) for seed in range(12)]
    for each in managers:
        each.run()
    told = [each for manager in managers for each in manager.accounts]
    steps = [step for manager in managers for step in manager.steps]
    done = executed(tmp_path, steps, size=3, family="llama")
    assert summary(done) == summary(told)
    assert ring(done) == ring(told)
    assert all(sum(each.sent[kind] for each in done) > 0 for kind in range(3))


def summary(done: Sequence[Done]) -> dict[tuple[int, int], Any]:
    """What an instance said of a step: tokens, what was lost, bytes of answers and copies."""
    return {
        (each.number, each.instance): (
            [(number, chosen.token) for number, chosen in each.chosen],
            each.failed,
            each.lost,
            each.sent[1:],
        )
        for each in done
    }


def ring(done: Sequence[Done]) -> Counter[int]:
    """Bytes that passed in each step: round a ring by others than who owns them, too."""
    passed: Counter[int] = Counter()
    for each in done:
        passed[each.number] += each.sent[0]
    return passed


def test_the_rest_of_a_group_survives_a_member(
    tmp_path: Path, make_fleet: Callable[..., Fleet]
) -> None:
    """A prompt by four, of whom not all are its neighbours in the ring; then again without it."""
    from engine.serving.instances.step import Choice, Part, Run, Step
    from engine.serving.sampling.parameters import SamplingParameters

    size, victim = 4, 3
    prompt = tuple(range(7, 47))
    greedy = Choice(parameters=SamplingParameters(temperature=0), place=0)

    def step(number: int, group: tuple[int, ...]) -> Step:
        part = Part(
            number=number,
            tokens=prompt,
            first=0,
            cached=(),
            keep=(Run(0, 40 * number, 0, 40),),
            choice=greedy,
        )
        return Step(number=number, instances=group, parts=(part,))

    steps = [step(1, tuple(range(size))), step(2, tuple(range(victim))), step(3, (0,))]
    done = executed(tmp_path, steps, size=size, family="llama", victim=victim)
    assert len(done) == 2 * (size - 1) + 1
    assert {each.lost for each in done if each.number == 1} == {victim}
    assert all(not each.chosen for each in done if each.number == 1)
    assert {each.lost for each in done if each.number > 1} == {None}
    assert all(each.seconds < 5 for each in done)
    scores = make_fleet("llama", 2).model(torch.tensor([prompt]))[0, -1]
    for number in (2, 3):
        [[given]] = [each.chosen for each in done if each.number == number and each.chosen]
        assert given[1].token == int(scores.argmax())
