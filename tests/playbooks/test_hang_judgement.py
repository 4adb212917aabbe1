"""Who never came: every kind of deadlock in jobs of 2 to 64 ranks in tp, dp and world groups."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from collectors.board import Activity, BoardState, InCollective
from collectors.membership import group_name
from collectors.samplers.last_collectives import FlightEntry
from playbooks.finding import Confidence
from playbooks.hang.judgement import judge
from playbooks.hang.observation import Frame, Observation, RankStack
from playbooks.hang.report import culprit_lines
from playbooks.hang.verdict import Cause, Excuse, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

TORCH = "/venv/lib/python3.11/site-packages/torch"
BOARD = BoardState(
    ticks=9,
    ticked_ns=0,
    step=41,
    steps_done=40,
    activity=Activity.NONE,
    activity_ns=0,
    collective=None,
    left=None,
    last_words="",
    asked=0,
    answered=0,
)
USERS = Frame(function="train", file="/home/me/train.py", line=88, text="loss.backward()")
STUCK = {
    Cause.LOCK: (Frame(function="refill", file="/home/me/cache.py", line=61, text="a.acquire()"),),
    Cause.LOADER: (
        Frame(function="__getitem__", file="/home/me/data.py", line=12, text="os.read(pipe, 1)"),
        Frame(function="fetch", file=f"{TORCH}/utils/data/_utils/fetch.py", line=54),
        Frame(function="__next__", file=f"{TORCH}/utils/data/dataloader.py", line=700),
    ),
    Cause.BEFORE_COLLECTIVE: (
        Frame(function="wait_for_friday", file="/home/me/odd.py", line=7, text="time.sleep(1e6)"),
    ),
}


@dataclass(frozen=True)
class Group:
    """Ranks that meet, and how often they have done so."""

    axis: str
    ranks: tuple[int, ...]
    sequence: int

    @property
    def name(self) -> str:
        return group_name(self.axis, self.ranks)


class SimulatedJob:
    """Ranks that run the same program of collectives until one does not."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.tp = self.random.choice((1, 2, 4))
        self.dp = self.random.choice((2, 3, 4, 8, 16))
        self.size = self.tp * self.dp
        self.culprit = self.random.randrange(self.size)
        ranks = range(self.size)
        self.groups = [
            [self._group("tp", [r for r in ranks if r // self.tp == i]) for i in range(self.dp)],
            [self._group("dp", [r for r in ranks if r % self.tp == i]) for i in range(self.tp)],
            [self._group("world", ranks)],
        ]
        self.program = [
            (name, axis)
            for axis in self.random.choices((0, 1, 2), k=6)
            for name in ("all_reduce", "all_gather")
            if len(self.groups[axis][0].ranks) > 1
        ] or [("barrier", 2)]
        self.stops_at = self.random.randrange(len(self.program))
        self.place = self._advance()

    def _group(self, axis: str, ranks: Iterable[int]) -> Group:
        return Group(axis, tuple(ranks), self.random.randrange(1000))

    def _of(self, rank: int, axis: int) -> Group:
        return next(group for group in self.groups[axis] if rank in group.ranks)

    def _advance(self) -> dict[int, int]:
        """Where each rank has to wait: the culprit does not enter its place in the program."""
        place = dict.fromkeys(range(self.size), 0)
        moved = True
        while moved:
            moved = False
            for rank in range(self.size):
                at = place[rank]
                limit = self.stops_at if rank == self.culprit else len(self.program)
                if at >= limit:
                    continue
                group = self._of(rank, self.program[at][1])
                together = all(place[other] >= at for other in group.ranks)
                blocked = self.culprit in group.ranks and at >= self.stops_at
                if together and not blocked:
                    for other in group.ranks:
                        place[other] = max(place[other], at + 1)
                    moved = True
        return place

    def collective(self, rank: int) -> InCollective | None:
        """In which a rank is; None: it is the culprit, or through with the program."""
        at = self.place[rank]
        if rank == self.culprit or at >= len(self.program):
            return None
        name, axis = self.program[at]
        group = self._of(rank, axis)
        return InCollective(
            name=name,
            group=group.name,
            group_size=len(group.ranks),
            sequence=group.sequence + self._calls(at, axis),
            size_bytes=1 << 20,
            since_ns=0,
            where=f"train.py:{100 + at}",
            unusual=False,
        )

    def _calls(self, at: int, axis: int) -> int:
        return sum(other == axis for _, other in self.program[:at])

    def observations(self) -> list[Observation]:
        """As a watchdog of all hosts would see them."""
        return [
            Observation(
                rank=rank,
                host="host",
                pid=1000 + rank,
                board=replace(BOARD, collective=self.collective(rank)),
            )
            for rank in range(self.size)
        ]


def waiting(rank: int) -> RankStack:
    inner = Frame(function="all_reduce", file=f"{TORCH}/distributed/distributed_c10d.py", line=3000)
    return RankStack(rank=rank, frames=(inner, USERS), active=False)


def told(job: SimulatedJob, observations: list[Observation], stacks: list[RankStack]) -> Verdict:
    verdict = judge(observations, stacks, silence_s=16.0)
    assert isinstance(verdict, Verdict), verdict
    assert [each.rank for each in verdict.culprits] == [job.culprit]
    assert job.culprit not in verdict.waiting
    return verdict


@pytest.mark.parametrize("cause", list(STUCK))
def test_the_one_who_is_elsewhere(cause: Cause) -> None:
    for seed in range(60):
        job = SimulatedJob(seed)
        stacks = [waiting(rank) for rank in range(job.size) if rank != job.culprit]
        stacks.append(RankStack(rank=job.culprit, frames=(*STUCK[cause], USERS), active=False))
        verdict = told(job, job.observations(), stacks)
        (culprit,) = verdict.culprits
        assert (verdict.cause, verdict.confidence) == (cause, Confidence.CERTAIN)
        assert culprit.place is not None
        assert culprit.place.user == STUCK[cause][0]
        assert verdict.meeting is not None
        assert verdict.step == 41


@pytest.mark.parametrize("how", ["stopped", "killed", "failed", "ended"])
def test_the_one_who_cannot_go_on_even_where_its_board_says_it_waits(how: str) -> None:
    for seed in range(60):
        job = SimulatedJob(seed)
        observations = job.observations()
        mate = next(each for each in observations if each.board and each.board.collective)
        assert mate.board is not None
        board = replace(
            BOARD,
            collective=mate.board.collective if job.random.random() < 0.5 else None,
            left={"failed": False, "ended": True}.get(how),
            last_words="ValueError: no\n" if how == "failed" else "",
        )
        observations[job.culprit] = replace(
            observations[job.culprit],
            board=board,
            stopped=how == "stopped",
            alive=how in ("stopped", "ended"),
        )
        verdict = told(job, observations, [])
        assert verdict.cause is (Cause.STOPPED if how == "stopped" else Cause.GONE)


@pytest.mark.parametrize("known", ["unusual", "minority"])
def test_the_one_in_the_wrong_collective(known: str) -> None:
    for seed in range(60):
        job = SimulatedJob(seed)
        if job.size < 3 and known == "minority":
            continue
        job.stops_at = len(job.program) - 1
        job.program = [("all_reduce", 2)] * len(job.program)
        job.place = job._advance()
        observations = job.observations()
        world = job.groups[2][0]
        wrong = InCollective(
            name=job.random.choice(("barrier", "all_gather")),
            group=world.name,
            group_size=job.size,
            sequence=world.sequence + job._calls(job.stops_at, 2) + job.random.choice((0, 0, 1)),
            size_bytes=24,
            since_ns=0,
            where="odd.py:9",
            unusual=known == "unusual",
        )
        observations[job.culprit] = replace(
            observations[job.culprit], board=replace(BOARD, collective=wrong)
        )
        verdict = told(job, observations, [waiting(rank) for rank in range(job.size)])
        assert verdict.cause is Cause.MISMATCH
        assert verdict.culprits[0].meeting is not None
        assert verdict.culprits[0].meeting.where == "odd.py:9"


def test_two_ranks_in_different_collectives_without_further_evidence_are_both_named() -> None:
    boards = [
        InCollective(
            name=name,
            group="world[0,1]",
            group_size=2,
            sequence=7,
            size_bytes=4,
            since_ns=0,
            where="t.py:1",
            unusual=False,
        )
        for name in ("all_reduce", "barrier")
    ]
    observations = [
        Observation(rank=i, host="h", pid=i + 1, board=replace(BOARD, collective=each))
        for i, each in enumerate(boards)
    ]
    verdict = judge(observations, silence_s=16)
    assert isinstance(verdict, Verdict)
    assert [each.rank for each in verdict.culprits] == [0, 1]
    assert verdict.confidence is Confidence.POSSIBLE


def broadcasting(rank: int, size_bytes: int = 400, name: str = "broadcast") -> Observation:
    entered = InCollective(
        name=name,
        group="world[0-2]",
        group_size=3,
        sequence=21,
        size_bytes=size_bytes,
        since_ns=0,
        where="t.py:52",
        unusual=False,
    )
    return Observation(rank=rank, host="h", pid=rank + 1, board=replace(BOARD, collective=entered))


@pytest.mark.parametrize("odd", ["root", "type", "size"])
def test_the_one_that_calls_the_same_collective_with_another_argument(odd: str) -> None:
    observations = [
        broadcasting(rank, 800 if odd == "size" and rank == 2 else 400) for rank in range(3)
    ]
    stacks = [
        replace(waiting(rank), root="src 2" if odd == "root" and rank == 2 else "src 0")
        for rank in range(3)
    ]
    flights = [
        replace(
            entry(rank, 5, 4),
            ranks=(0, 1, 2),
            operation="broadcast",
            dtype="Double" if odd == "type" and rank == 2 else "Float",
        )
        for rank in range(3)
    ]
    verdict = judge(observations, stacks, flights, silence_s=16)
    assert isinstance(verdict, Verdict)
    assert [(each.rank, each.cause) for each in verdict.culprits] == [(2, Cause.MISMATCH)]
    assert (verdict.confidence, verdict.waiting) == (Confidence.LIKELY, (0, 1))
    lines = culprit_lines(verdict)
    assert f"rank 2 on h called broadcast #21 of world[0-2] with another {odd} than" in lines[0]
    value = {"root": "src 2", "type": "Double", "size": "800 B"}[odd]
    assert lines[1] == f"rank 2 called it with {value} at t.py:52"

    pair = [
        replace(
            each,
            board=replace(
                each.board, collective=replace(each.board.collective, group="world[1,2]")
            ),
        )
        for each in observations[1:]
        if each.board and each.board.collective
    ]
    flights = [replace(each, ranks=(1, 2)) for each in flights[1:]]
    verdict = judge(pair, stacks[1:], flights, silence_s=16)
    assert isinstance(verdict, Verdict)
    assert [each.rank for each in verdict.culprits] == [1, 2]
    assert verdict.confidence is Confidence.POSSIBLE


def test_arguments_that_may_differ_accuse_nobody() -> None:
    observations = [broadcasting(rank, 100 * (rank + 1), "all_to_all") for rank in range(3)]
    verdict = judge(observations, silence_s=16)
    assert isinstance(verdict, Verdict)
    assert verdict.culprits == ()


def test_stacks_alone_name_who_waits_in_no_collective() -> None:
    """As attach sees a job: no boards, no flight recorders."""
    for seed in range(60):
        job = SimulatedJob(seed)
        cause = job.random.choice(list(STUCK))
        observations = [replace(each, board=None) for each in job.observations()]
        stacks = [waiting(rank) for rank in range(job.size) if rank != job.culprit]
        stacks.append(RankStack(rank=job.culprit, frames=(*STUCK[cause], USERS), active=False))
        assert told(job, observations, stacks).cause is cause


def test_ranks_of_hosts_that_are_not_seen_are_named_only_when_nobody_here_is_to_blame() -> None:
    for seed in range(100):
        job = SimulatedJob(seed)
        here = [each for each in job.observations() if each.rank != job.culprit]
        assert isinstance(judge(here, silence_s=16), Excuse)
        verdict = judge(here, silence_s=600, patient=False)
        assert isinstance(verdict, Verdict)
        assert [(each.rank, each.cause) for each in verdict.culprits] == [
            (job.culprit, Cause.ELSEWHERE)
        ]
    job = SimulatedJob(3)
    gone = (job.culprit + 1) % job.size
    told(job, [each for each in job.observations() if each.rank != gone], [])


@pytest.mark.parametrize(
    ("frame", "what"),
    [
        (Frame(function="_save", file=f"{TORCH}/serialization.py", line=1), "saves a checkpoint"),
        (Frame(function="save_model", file="/home/me/run.py", line=1), "saves a checkpoint"),
        (
            Frame(function="write", file="/v/lib/python3/site-packages/safetensors/t.py", line=1),
            "sa",
        ),
        (Frame(function="f", file=f"{TORCH}/_dynamo/convert_frame.py", line=1), "compiles"),
        (
            Frame(function="ast_to_ttir", file="/v/triton/compiler/code_generator.py", line=1),
            "comp",
        ),
        (Frame(function="interaction", file="/usr/lib/python3.11/pdb.py", line=1), "waits for its"),
    ],
)
def test_long_work_on_the_culprits_stack_excuses_it_once(frame: Frame, what: str) -> None:
    job = SimulatedJob(1)
    stacks = [waiting(rank) for rank in range(job.size) if rank != job.culprit]
    sleeping = Frame(function="helper", file="/home/me/io.py", line=5, text="time.sleep(1)")
    stacks.append(RankStack(rank=job.culprit, frames=(sleeping, frame, USERS), active=False))
    excuse = judge(job.observations(), stacks, silence_s=16)
    assert isinstance(excuse, Excuse)
    assert excuse.what.startswith(what)
    assert excuse.where == "io.py:5"
    verdict = judge(job.observations(), stacks, silence_s=616, patient=False)
    assert isinstance(verdict, Verdict)


@pytest.mark.parametrize(
    "frame",
    [
        Frame(function="checkpoint", file=f"{TORCH}/utils/checkpoint.py", line=1),
        Frame(function="_maybe_log_save_evaluate", file="/s/transformers/trainer.py", line=1),
        Frame(function="compile_wrapper", file=f"{TORCH}/_dynamo/eval_frame.py", line=1),
        Frame(function="from_pretrained", file="/home/me/run.py", line=1),
    ],
)
def test_what_only_looks_like_long_work_is_no_excuse(frame: Frame) -> None:
    """Activation checkpointing, a trainer's bookkeeping, compiled code that runs, loading late."""
    job = SimulatedJob(2)
    stacks = [RankStack(rank=job.culprit, frames=(*STUCK[Cause.LOCK], frame, USERS))]
    assert isinstance(judge(job.observations(), stacks, silence_s=16), Verdict)


def test_a_busy_evaluation_is_excused_an_idle_one_is_not() -> None:
    job = SimulatedJob(4)
    frames = (
        Frame(function="forward", file="/home/me/net.py", line=5),
        Frame(function="evaluate", file="/home/me/run.py", line=1),
    )
    stacks = [RankStack(rank=job.culprit, frames=frames)]
    observations = job.observations()
    busy = judge(observations, stacks, silence_s=21, busy={job.culprit: True})
    idle = judge(observations, stacks, silence_s=21, busy={job.culprit: False})
    assert isinstance(busy, Excuse)
    assert isinstance(idle, Verdict)


def entry(rank: int, sequence: int, completed: int) -> FlightEntry:
    return FlightEntry(
        rank=rank,
        group="default_pg[0-3]",
        ranks=(0, 1, 2, 3),
        sequence=sequence,
        completed=completed,
        operation="all_reduce",
        sizes="[4]",
        dtype="Float",
        where="train.py:41",
    )


def test_flight_recorders_tell_who_never_enqueued_and_whose_device_does_not_complete() -> None:
    """Boards show nothing of collectives that C++ code issues, or that run on a device."""
    observations = [Observation(rank=r, host="h", pid=r + 1, board=BOARD) for r in range(4)]
    never = [entry(0, 9, 8), entry(1, 8, 8), entry(2, 9, 8), entry(3, 9, 8)]
    verdict = judge(observations, flights=never, silence_s=16)
    assert isinstance(verdict, Verdict)
    assert [each.rank for each in verdict.culprits] == [1]
    assert verdict.meeting is not None
    assert (verdict.meeting.sequence, verdict.meeting.where) == (9, "train.py:41")

    stuck = [entry(0, 9, 9), entry(1, 9, 9), entry(2, 9, 8), entry(3, 9, 9)]
    verdict = judge(observations, flights=stuck, silence_s=16)
    assert isinstance(verdict, Verdict)
    assert [(each.rank, each.cause) for each in verdict.culprits] == [(2, Cause.DEVICE)]


def test_boards_without_collectives_tell_who_has_not_come_to_its_backward_pass() -> None:
    backward = replace(BOARD, activity=Activity.BACKWARD)
    observations = [
        Observation(rank=r, host="h", pid=r + 1, board=BOARD if r == 2 else backward)
        for r in range(4)
    ]
    verdict = judge(observations, silence_s=16)
    assert isinstance(verdict, Verdict)
    assert [each.rank for each in verdict.culprits] == [2]


def test_all_have_come_and_it_does_not_end() -> None:
    job = SimulatedJob(5)
    entered = next(filter(None, (job.collective(rank) for rank in range(job.size))))
    everybody = replace(entered, group=job.groups[2][0].name)
    observations = [
        replace(each, board=replace(BOARD, collective=everybody)) for each in job.observations()
    ]
    verdict = judge(observations, silence_s=16)
    assert isinstance(verdict, Verdict)
    assert verdict.culprits == ()
    assert verdict.confidence is Confidence.POSSIBLE
