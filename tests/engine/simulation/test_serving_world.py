"""A server survives what goes wrong: nothing is lost, given twice, or left behind; and the
simulated world notices where that is not so."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("torch", reason="needs the engine extra")

from engine.serving.api.open_requests import OpenRequests
from engine.serving.paged.cache import PagedCache
from engine.serving.paged.moves import MemoryMover
from engine.serving.worker.engine import Engine
from engine.serving.worker.sequence import Sequence
from engine.simulation.serving_world.scenario import Fault
from engine.simulation.serving_world.world import ServingWorld

if TYPE_CHECKING:
    from collections.abc import Callable

SEEDS = range(24)
WITHIN = range(60)


def test_nothing_is_lost_or_left_behind() -> None:
    faults: Counter[Fault] = Counter()
    preemptions = 0
    for seed in SEEDS:
        outcome = ServingWorld(seed).run()
        assert not outcome.broken, f"seed {seed}: {outcome.broken}"
        faults += outcome.faults
        preemptions += outcome.preemptions
    assert faults.keys() == set(Fault)
    assert preemptions > 100


def test_a_seed_decides_everything() -> None:
    assert ServingWorld(3).run() == ServingWorld(3).run()


def _forgets_what_was_given(patch: pytest.MonkeyPatch) -> None:
    bury = OpenRequests.bury

    def without_output(self: OpenRequests) -> Any:
        failed, joining = bury(self)
        import msgspec

        return failed, tuple(msgspec.structs.replace(each, output=()) for each in joining)

    patch.setattr(OpenRequests, "bury", without_output)


def _shares_what_is_not_computed(patch: pytest.MonkeyPatch) -> None:
    publish = PagedCache.publish

    def too_early(self: PagedCache, number: int, tokens: Any, computed: int) -> None:
        most = len(self.table(number).blocks) * self.block_tokens
        publish(self, number, tokens, min(most, len(tokens), computed + 1))

    patch.setattr(PagedCache, "publish", too_early)


def _uploads_in_the_wrong_order(patch: pytest.MonkeyPatch) -> None:
    upload = MemoryMover.upload
    patch.setattr(
        MemoryMover,
        "upload",
        lambda self, host, blocks: upload(self, host[::-1], blocks),
    )


def _keeps_the_hosts_blocks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PagedCache, "_release_host", lambda self, table: table.host.clear())


def _runs_past_the_end(patch: pytest.MonkeyPatch) -> None:
    append = Sequence.append

    def without_ends(self: Sequence, chosen: Any) -> Any:
        import msgspec

        self.request = msgspec.structs.replace(self.request, ends=frozenset())
        return append(self, chosen)

    patch.setattr(Sequence, "append", without_ends)


def _forgets_who_left(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Engine, "_withdraw", lambda self, number, now: self._sequences.pop(number))


def _gives_up_blocks_that_still_move(patch: pytest.MonkeyPatch) -> None:
    offload = PagedCache.offload

    def at_once(self: PagedCache, number: int) -> None:
        offload(self, number)
        self._release_device(self.table(number))

    patch.setattr(PagedCache, "offload", at_once)


@pytest.mark.parametrize(
    "plant",
    [
        _forgets_what_was_given,
        _shares_what_is_not_computed,
        _uploads_in_the_wrong_order,
        _keeps_the_hosts_blocks,
        _runs_past_the_end,
        _forgets_who_left,
        _gives_up_blocks_that_still_move,
    ],
)
def test_planted_bugs_are_caught(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert any(ServingWorld(seed).run().broken for seed in WITHIN)
