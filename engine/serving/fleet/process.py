"""A fleet behind the API: its instances are started and measured, then requests are served."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from collectors.errors import UsageError
from engine.elastic.fleet_profile import FleetProfile
from engine.elastic.information_base import of_profile
from engine.elastic.manager import Manager
from engine.elastic.registry import make_fleet_policy
from engine.models.huggingface import load_config
from engine.profiles.profile import read_profile
from engine.scheduling.registry import Knowledge, make_policy
from engine.serving.fleet.calibration import Calibration
from engine.serving.fleet.crew import Crew
from engine.serving.fleet.engine import FleetEngine
from engine.serving.fleet.loop import FleetLoop
from engine.serving.fleet.texts import Texts
from engine.serving.wire import Ready

if TYPE_CHECKING:
    from collectors.recorder import Recorder
    from engine.elastic.information_base import InformationBase
    from engine.serving.channel import Channel
    from engine.serving.config import ServingConfig
    from engine.serving.wire import Start, ToEngine

_LINK_BYTES_PER_S = 5e9  # between two instances of one host, where nobody has measured it


def serve_fleet(
    start: Start, config: ServingConfig, channel: Channel[ToEngine], recorder: Recorder
) -> NoReturn:
    """Until the other end of the connection is gone.

    Raises:
        EOFError, OSError: it is.
        UsageError, DataError: the model, or the way it is to be served, cannot be used.
        RunFailed: instances die too often.
    """
    with Crew(start, instances=config.instances, tp=config.tp, slots=config.kv_tokens) as crew:
        crew.await_all()
        _check_fits(start, config, crew.shape().slots)
        calibration = Calibration(crew)
        base = _base(start, config, calibration)
        engine = FleetEngine(
            lambda prefixes: _manager(config, base, crew, prefixes, calibration.steps),
            _texts(crew),
            recorder,
        )
        slots = crew.shape().slots * config.instances
        policy = f"{config.policy}, {config.order}"
        recorder.event("engine.ready", value=slots, attributes={"policy": policy})
        channel.send(Ready(kv_tokens=slots, block_tokens=1, policy=policy))
        FleetLoop(engine, crew, channel, patience_s=config.patience_s).run()


def _check_fits(start: Start, config: ServingConfig, slots: int) -> None:
    """UsageError: the longest request has no room where the policy keeps a request."""
    holders = {"replicas": 1, "disaggregated": max(1, config.instances // 2)}
    room = slots * holders.get(config.policy, config.instances)
    longest = config.max_len or load_config(Path(start.directory)).max_seq_len
    if longest > room:
        raise UsageError(
            f"a request of {longest} tokens has no room: {config.policy} keeps one in {room}",
            where=f"--policy {config.policy}",
            remedy="give a smaller --max-len, a larger --kv-tokens, or --policy esp",
        )


def _base(start: Start, config: ServingConfig, calibration: Calibration) -> InformationBase:
    """As the profile says, or as it is measured now."""
    if config.profile:
        profile = read_profile(Path(config.profile))
        return of_profile(profile, tp=config.tp, link_bytes_per_s=_LINK_BYTES_PER_S)
    context = config.max_len or load_config(Path(start.directory)).max_seq_len
    longest = min(context - 1, config.prefill_tokens * config.instances)
    return calibration.measure(longest=longest, max_batch=config.max_batch)


def _manager(
    config: ServingConfig,
    base: InformationBase,
    crew: Crew,
    prefixes: FleetEngine,
    steps: int,
) -> Manager:
    order = make_policy(config.order, Knowledge(profile=FleetProfile(base, config.instances)))
    fleet = make_fleet_policy(config.policy, base, prefill_tokens=config.prefill_tokens)
    return Manager(
        fleet,
        order,
        base,
        slots=dict.fromkeys(crew.ready, crew.shape().slots),
        max_batch=config.max_batch,
        prefixes=prefixes,
        begun=steps,
    )


def _texts(crew: Crew) -> Texts:
    texts = Texts(salt=secrets.token_bytes(16))
    for instance in crew.ready:
        texts.gain(instance, crew.shape().slots)
    return texts
