"""The end of a rank that communicated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    InRanks = Callable[..., list[list[dict[str, Any]]]]


@pytest.mark.parametrize("transport", ["shared", "collective"])
def test_no_thread_of_gloo_is_left_for_the_interpreters_end(
    in_ranks: InRanks, transport: str
) -> None:
    """There, one that frees a tensor would abort the process."""
    told = in_ranks(
        """
from engine.groups.group import disconnect
from engine.overlap.operators import matmul_all_reduce

def gloos():
    tasks = "/proc/self/task"
    threads = (open(f"{tasks}/{each}/comm").read() for each in os.listdir(tasks))
    return sum("gloo" in thread for thread in threads)

group = open_group(choice=options["transport"])
matmul_all_reduce(torch.ones(4, 3), torch.ones(5, 3), group)
group.barrier()
before = gloos()
group.close()
disconnect()
tell(before=before, after=gloos())
""",
        transport=transport,
    )
    for [line] in told:
        assert line["before"] > 0
        assert line["after"] == 0
