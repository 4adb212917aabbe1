"""Two ways to keep a job of 12,288 GPUs running: MegaScale's, and what this project does.

Only what is published is called so; a bound is taken as the mean. All else is an assumption, is
printed with every result, and is among its sensitivities.
"""

from __future__ import annotations

from engine.simulation.train.costs import Costs

_MEGASCALE = "MegaScale (arXiv 2402.15627)"
_BYTEROBUST = "ByteRobust (arXiv 2509.16293)"
_STEP = f"published: {_MEGASCALE}, table 2: 175B, 12,288 GPUs; 55.2 % MFU gives 6.3 s too"
_DEFAULT = "assumed: the default of [resilience]"
_REQUEUE = f"published: {_BYTEROBUST}: 454-768 s for a requeue"

MEGASCALE = Costs(
    name="megascale",
    step_s=6.34,
    snapshot_every=0,
    snapshot_block_s=(0.0, 0.0),
    copy_s=0.0,
    checkpoint_every_s=578.0,
    checkpoint_block_s=(2.0, 4.0),
    publish_s=60.0,
    report_s=(0.0, 60.0),
    lost_after_s=60.0,
    overdue_factor=8.0,
    overdue_least_s=300.0,
    silent_s=(1800.0, 5400.0),
    stop_s=(2.0, 5.0),
    check="always",
    check_s=(300.0, 300.0),
    start_s=(454.0, 768.0),
    replenish_s=(0.0, 0.0),
    standbys=0,
    person_s=(1200.0, 2400.0),
    sources={
        "step_s": _STEP,
        "snapshot_every": "published: MegaScale restores from its file system",
        "snapshot_block_s": "published: it has no snapshots",
        "copy_s": "published: it has no snapshots",
        "checkpoint_every_s": "assumed: with which restart and recomputation take the published"
        " 15 min on average: 2 x (900 - 611 s)",
        "checkpoint_block_s": 'assumed: published is that the first stage takes "seconds"',
        "publish_s": "assumed: the second stage, from the hosts to the file system",
        "report_s": "assumed: heartbeats through an orchestrator, collected each minute",
        "lost_after_s": "assumed: one such minute",
        "overdue_factor": _DEFAULT,
        "overdue_least_s": "assumed: half of the published < 10 min for detection and diagnosis",
        "silent_s": "assumed: somebody sees the loss",
        "stop_s": "assumed: processes are killed",
        "check": "published: MegaScale examines every node",
        "check_s": "assumed: the other half of < 10 min",
        "start_s": _REQUEUE,
        "replenish_s": "published: a requeue contains it, see start_s",
        "standbys": 'assumed: none: published is that it "replenishes"',
        "person_s": "assumed: half an hour",
        "beat_s": _DEFAULT,
    },
)

OURS = Costs(
    name="ours",
    step_s=6.34,
    snapshot_every=10,
    snapshot_block_s=(0.01, 0.04),
    copy_s=5.0,
    checkpoint_every_s=1800.0,
    checkpoint_block_s=(2.0, 4.0),
    publish_s=60.0,
    report_s=(0.0, 1.0),
    lost_after_s=5.0,
    overdue_factor=8.0,
    overdue_least_s=6.0,
    silent_s=(6.34, 12.68),
    stop_s=(1.0, 3.0),
    check="suspects",
    check_s=(60.0, 60.0),
    start_s=(46.0, 65.0),
    replenish_s=(454.0, 768.0),
    standbys=4,
    person_s=(1200.0, 2400.0),
    sources={
        "step_s": _STEP,
        "snapshot_every": _DEFAULT,
        "snapshot_block_s": f"published: {_BYTEROBUST}: 0.01-0.04 s, of a checkpoint a step",
        "copy_s": "assumed: less than a step",
        "checkpoint_every_s": "assumed: half an hour, a second line of defence",
        "checkpoint_block_s": 'assumed: as MegaScale: "seconds"',
        "publish_s": "assumed: as MegaScale",
        "report_s": "assumed: an executor sees its child end at once, and tells it",
        "lost_after_s": _DEFAULT,
        "overdue_factor": _DEFAULT,
        "overdue_least_s": _DEFAULT,
        "silent_s": "assumed: the digests of the next steps show it",
        "stop_s": "assumed: processes are killed",
        "check": _DEFAULT,
        "check_s": "assumed: a minute",
        "start_s": f"published: {_BYTEROBUST}: 46-65 s by warm standby and hot update",
        "replenish_s": _REQUEUE,
        "standbys": "assumed: more than fail while one is replaced",
        "person_s": "assumed: half an hour",
        "beat_s": _DEFAULT,
    },
)

PRACTICES = {practice.name: practice for practice in (MEGASCALE, OURS)}
