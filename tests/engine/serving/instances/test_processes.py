"""Instances as processes: what they compute, and what becomes of a step when one of them dies."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="needs the engine extra")

from engine.models.huggingface import save_pretrained  # noqa: E402
from engine.serving.channel import Channel  # noqa: E402
from engine.serving.config import ServingConfig  # noqa: E402
from engine.serving.instances.enrolment import (  # noqa: E402
    FROM_INSTANCE,
    Compute,
    Computed,
    Enter,
    FromInstance,
    Peer,
    Up,
)
from engine.serving.instances.step import Choice, Copy, Part, Run, Step  # noqa: E402
from engine.serving.sampling.parameters import SamplingParameters  # noqa: E402
from engine.serving.wire import Refusal, Start  # noqa: E402
from engine.serving.worker.group import environment  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from engine.models.transformer import Transformer
    from engine.serving.instances.step import Done

SLOTS = 300
PROMPT = [7 * place % 259 + 1 for place in range(101)]
SOON_S = 5.0
CHOICE = Choice(parameters=SamplingParameters(temperature=0), place=0)


class Member:
    """One rank of one instance."""

    def __init__(self, enter: Enter) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "engine.serving.instances.process"],
                stdin=theirs.fileno(),
                env={**environment(), "OMP_NUM_THREADS": "1"},
            )
        self.channel: Channel[FromInstance] = Channel(ours, FROM_INSTANCE)
        self.channel.send(enter)

    def up(self) -> Up:
        told = self.channel.receive_one()
        assert isinstance(told, Up), told
        return told

    def done(self) -> Done:
        told = self.channel.receive_one()
        assert isinstance(told, Computed), told
        return told.done

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.channel.close()


class Processes:
    """Instances of a model, each of ``tp`` ranks."""

    def __init__(self, directory: Path, instances: int, tp: int = 1, **options: Any) -> None:
        config = ServingConfig(device="cpu", threads=1, tp=tp, **options)
        self._start = Start(directory=str(directory), config=config.model_dump_json())
        self._scratch = directory.parent
        self._tp = tp
        self._steps = 0
        self.members = {number: self._begun(number) for number in range(instances)}
        self.ups = {number: [each.up() for each in of] for number, of in self.members.items()}
        for number in self.members:
            self._introduce(number)

    def replace(self, number: int) -> None:
        """By one that knows nothing."""
        for each in self.members[number]:
            each.end()
        self.members[number] = self._begun(number)
        self.ups[number] = [each.up() for each in self.members[number]]
        for other in self.members:
            self._introduce(other)

    def tell(
        self, group: tuple[int, ...], parts: Sequence[Part], copies: Sequence[Copy] = ()
    ) -> None:
        """A step."""
        self._steps += 1
        step = Step(number=self._steps, instances=group, parts=tuple(parts), copies=tuple(copies))
        for number in group:
            for each in self.members[number]:
                each.channel.send(Compute(step))

    def done(self, *group: int) -> list[Done]:
        """Accounts of their first ranks; the others give the same."""
        found = []
        for number in group:
            first, *others = [each.done() for each in self.members[number]]
            for other in others:
                assert (other.chosen, other.lost) == (first.chosen, first.lost)
            found.append(first)
        return found

    def close(self) -> None:
        for of in self.members.values():
            for each in of:
                each.end()

    def _begun(self, number: int) -> list[Member]:
        meeting = self._scratch / f"meeting-{number}-{self._steps}"
        return [
            Member(
                Enter(
                    start=self._start,
                    instance=number,
                    rank=rank,
                    meeting=str(meeting) if self._tp > 1 else "",
                    slots=SLOTS,
                )
            )
            for rank in range(self._tp)
        ]

    def _introduce(self, told: int) -> None:
        for other, ups in self.ups.items():
            if other == told:
                continue
            for member, up in zip(self.members[told], ups, strict=True):
                member.channel.send(
                    Peer(instance=other, pid=up.pid, descriptor=up.descriptor, nbytes=up.nbytes)
                )


@pytest.fixture(scope="module")
def model(make_fleet: Callable[..., Any]) -> Transformer:
    plain: Transformer = make_fleet("llama", 1).model
    return plain


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, model: Transformer) -> Path:
    found = tmp_path_factory.mktemp("processes") / "model"
    found.mkdir()
    save_pretrained(found, model.config, dict(model.named_parameters()), None)
    return found


@pytest.fixture
def start(directory: Path) -> Iterator[Callable[..., Processes]]:
    """To be called with a number of instances, and of ranks of each."""
    begun: list[Processes] = []

    def make(instances: int, tp: int = 1, **options: Any) -> Processes:
        begun.append(Processes(directory, instances, tp, **options))
        return begun[-1]

    yield make
    for each in begun:
        each.close()


def greedy(model: Transformer, tokens: int) -> list[int]:
    text = list(PROMPT)
    with torch.inference_mode():
        for _ in range(tokens):
            text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
    return text[len(PROMPT) :]


def prefill(*shares: tuple[int, int]) -> Part:
    """Of all the prompt; each instance keeps so many tokens, from its first slot on."""
    runs: list[Run] = []
    for instance, tokens in shares:
        runs.append(Run(instance, 0, runs[-1].end if runs else 0, tokens))
    assert runs[-1].end == len(PROMPT)
    return Part(number=1, tokens=tuple(PROMPT), first=0, cached=(), keep=tuple(runs), choice=CHOICE)


def decode(before: Part, token: int, keep: Run) -> Part:
    return Part(
        number=1,
        tokens=(token,),
        first=keep.first,
        cached=(*before.cached, *before.keep),
        keep=(keep,),
        master=keep.instance,
        choice=CHOICE,
    )


def tokens(done: Sequence[Done]) -> list[int]:
    assert all(each.lost is None for each in done), done
    return [chosen.token for each in done for _, chosen in each.chosen]


def converse(fleet: Processes, model: Transformer) -> None:
    """Prefill by all, kept by two; decodes by changing masters; a copy, and the last token by an
    instance alone."""
    group = tuple(fleet.members)
    expected = greedy(model, 4)
    part = prefill((0, 40), (1, 61))
    fleet.tell(group, [part])
    assert tokens(fleet.done(*group)) == expected[:1]
    for place, master in enumerate((1, 0)):
        part = decode(part, expected[place], Run(master, 250, 101 + place, 1))
        fleet.tell(group, [part])
        done = fleet.done(*group)
        assert tokens(done) == expected[place + 1 : place + 2]
        assert all(each.sent[0] == each.sent[2] == 0 for each in done)
    prompt = Copy(Run(1, 0, 40, 61), Run(0, 100, 40, 61))
    fleet.tell((0, 1), [], [prompt, Copy(Run(1, 250, 101, 1), Run(0, 251, 101, 1))])
    moved = [each.sent[2] for each in fleet.done(0, 1)]
    assert moved == [0, 62 * 2 * 2 * 2 * 8 * 4]  # keys and values, layers, heads, width, float32
    here = (Run(0, 0, 0, 40), prompt.target, Run(0, 251, 101, 1), Run(0, 250, 102, 1))
    last = Part(
        number=1,
        tokens=(expected[2],),
        first=103,
        cached=here,
        keep=(Run(0, 252, 103, 1),),
        master=0,
        choice=CHOICE,
    )
    fleet.tell((0,), [last])
    assert tokens(fleet.done(0)) == expected[3:]


def test_processes_give_what_one_model_gives(
    start: Callable[..., Processes], model: Transformer
) -> None:
    """And they end with who told them, not by a terminal's signal."""
    fleet = start(2)
    converse(fleet, model)
    for [member] in fleet.members.values():
        member.process.send_signal(signal.SIGTERM)
        member.channel.close()
        assert member.process.wait(timeout=20) == 0


@pytest.mark.slow
def test_four_processes_do(start: Callable[..., Processes], model: Transformer) -> None:
    converse(start(4), model)


def stopped(fleet: Processes, number: int, rank: int, parts: Sequence[Part]) -> Member:
    """One that stands still while all the others are at a step: that is as far as they come."""
    victim = fleet.members[number][rank]
    victim.process.send_signal(signal.SIGSTOP)
    fleet.tell(tuple(fleet.members), parts)
    time.sleep(0.3)
    return victim


def killed(victim: Member, fleet: Processes, *others: int) -> list[int | None]:
    """What its death is for others."""
    victim.process.kill()
    begun = time.monotonic()
    found = [each.lost for each in fleet.done(*others)]
    assert time.monotonic() - begun < SOON_S
    return found


def test_one_that_dies_in_the_middle_frees_the_others(
    start: Callable[..., Processes], model: Transformer
) -> None:
    fleet = start(3)
    [expected] = greedy(model, 1)
    victim = stopped(fleet, 2, 0, [prefill((2, 101))])
    assert killed(victim, fleet, 0, 1) == [2, 2]
    fleet.tell((0, 1), [prefill((0, 50), (1, 51))])
    assert tokens(fleet.done(0, 1)) == [expected]
    fleet.replace(2)
    whole = prefill((0, 30), (1, 30), (2, 41))
    fleet.tell((0, 1, 2), [whole])
    assert tokens(fleet.done(0, 1, 2)) == [expected]
    # Nobody waits for the first one, nor it for the dead: it is freed, or has ended before.
    victim = stopped(fleet, 2, 0, [decode(whole, expected, Run(1, 200, 101, 1))])
    assert killed(victim, fleet, 0, 1)[1] == 2


def test_an_instance_of_two_ranks(start: Callable[..., Processes], model: Transformer) -> None:
    """It computes the same, and one rank's death is the whole instance's for the others."""
    fleet = start(2, tp=2)
    converse(fleet, model)
    victim = stopped(fleet, 1, 1, [prefill((1, 101))])
    assert killed(victim, fleet, 0) == [1]
    fleet.tell((0,), [prefill((0, 101))])
    assert tokens(fleet.done(0)) == greedy(model, 1)


def test_what_cannot_be_served_is_refused(directory: Path) -> None:
    config = ServingConfig(device="cpu", threads=1)
    nowhere = str(directory / "nowhere")
    start = Start(directory=nowhere, config=config.model_dump_json())
    member = Member(Enter(start=start, instance=0, slots=SLOTS))
    try:
        told = member.channel.receive_one()
        assert isinstance(told, Refusal), told
        assert told.kind == "UsageError"
        assert nowhere in told.what + told.where
    finally:
        member.end()
