"""The answer of an attached look as text for people; what matters most comes last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.clock import host_name
from collectors.samplers.stack_groups import render_groups

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opsuite.attaching.command import Answer


def render(answer: Answer) -> str:
    """Stacks, the odd one out first; what each rank does; the answer; and where it is kept."""
    blocks = [
        render_groups(answer.groups, answer.unread),
        "\n".join(_rank_lines(answer)),
        "\n".join([*answer.conclusion.lines, *_last_lines(answer)]),
    ]
    return "\n\n".join(block for block in blocks if block)


def _rank_lines(answer: Answer) -> Iterator[str]:
    targets = answer.gathered.targets
    seen = {motion.rank: motion for motion in answer.conclusion.motions}
    yield f"{len(targets.ranks)} of {targets.world_size} ranks, on {host_name()}"
    for target in targets.ranks:
        motion, place = seen[target.rank], answer.conclusion.places.get(target.rank)
        cores = "n/a" if motion.cores is None else f"{motion.cores:.0%}"
        where = f" {place.doing} at {place.line}" if place and place.line else ""
        child = f" of its {place.child}" if place and place.child else ""
        stopped = ", stopped by a signal or a debugger" if motion.stopped else ""
        yield (
            f"  rank {target.rank} (process {target.pid}): {motion.motion},"
            f"{where}{child}{stopped}, {cores} of a core"
        )
    for rank in targets.missing:
        yield f"  rank {rank}: no such process, though this host should have it"


def _last_lines(answer: Answer) -> Iterator[str]:
    if answer.collectives.ras is not None:
        yield f"NCCL's report: {answer.collectives.ras}"
    for finding in answer.findings:
        yield f"do: {finding.action}"
        yield f'evidence: opsuite query "{finding.sql}"'
    if answer.bundle is not None:
        yield f"bundle: {answer.bundle}"
    else:
        yield f"kept: opsuite runs show {answer.run_id}; opsuite runs export {answer.run_id}"
