"""The scaling information base: what was measured is kept, and the rest follows from it."""

from __future__ import annotations

import pytest

from collectors.errors import UsageError
from engine.elastic.information_base import InformationBase, of_profile
from engine.profiles.latency import Latency, latency_of
from engine.profiles.profile import Configuration, DecodeSample, PrefillSample, Profile

LENGTHS = ((64,), (1024,), (8192,), (256, 256, 512))
DECODES = ((1, 100), (8, 9_000), (64, 20_000), (2, 60_000))


def lawful(dop: int) -> Latency:
    """As if all work were shared, and a ring added to it."""
    ring = (dop - 1) / dop
    return latency_of(
        (4e-3 + 3e-3 * ring, 40e-6 / dop + 5e-6 * ring, 8e-10 / dop + 1e-10 * ring),
        (4e-3 + 2e-3 * ring, 2e-7 / dop + 1e-8 * ring, 6e-5 / dop + 4e-6 * ring),
    )


def base_of(*measured: int) -> InformationBase:
    return InformationBase(
        {dop: lawful(dop) for dop in measured}, kv_bytes_per_token=1_000, link_bytes_per_s=1e6
    )


def configuration(sp: int, op: int = 1) -> Configuration:
    latency = lawful(sp)
    return Configuration(
        op=op,
        sp=sp,
        weight_bytes=(1,),
        prefill=tuple(
            PrefillSample(
                lengths=lengths, seconds=latency.iteration_s([(each, 0) for each in lengths], 0, 0)
            )
            for lengths in LENGTHS
        ),
        decode=tuple(
            DecodeSample(
                batch=batch, context_tokens=context, seconds=latency.decode_s(batch, context)
            )
            for batch, context in DECODES
        ),
    )


def assert_close(found: Latency, wanted: Latency) -> None:
    for name in ("constant", "token", "square", "sequence"):
        assert getattr(found.prefill, name) == pytest.approx(getattr(wanted.prefill, name), 1e-6)
    for name in ("constant", "context", "sequence"):
        assert getattr(found.small, name) == pytest.approx(getattr(wanted.small, name), 1e-6)
        assert getattr(found.large, name) == pytest.approx(getattr(wanted.large, name), 1e-6)


def test_degrees_that_nobody_measured_follow_the_law_of_those_that_were() -> None:
    base = base_of(1, 2, 4)
    assert base.measured == {1, 2, 4}
    for dop in (3, 8):
        assert_close(base.latency(dop), lawful(dop))


def test_a_measured_degree_is_as_it_was_measured_whatever_the_law_says() -> None:
    odd = lawful(2).scaled(1.3)
    base = InformationBase(
        {1: lawful(1), 2: odd, 4: lawful(4)}, kv_bytes_per_token=1, link_bytes_per_s=1
    )
    assert base.latency(2) == odd


def test_of_one_degree_alone_work_is_shared_without_loss() -> None:
    base = base_of(4)
    one, four = base.latency(1), lawful(4)
    assert one.prefill.constant == pytest.approx(four.prefill.constant)
    assert one.prefill.token == pytest.approx(4 * four.prefill.token)
    assert one.prefill.square == pytest.approx(4 * four.prefill.square)
    assert one.small.context == pytest.approx(4 * four.small.context)


def test_iterations_prefills_and_transfers_take_what_their_degree_says() -> None:
    base = base_of(1, 2)
    two = lawful(2)
    assert base.iteration_s(2, [(500, 100)], 3, 900) == two.iteration_s([(500, 100)], 3, 900)
    assert base.prefill_s(2, (500, 70)) == two.iteration_s([(500, 0), (70, 0)], 0, 0)
    assert base.transfer_s(5) == pytest.approx(5e-3)


def test_a_profile_gives_its_fits_by_degree_and_says_what_it_lacks() -> None:
    profile = Profile(
        model="tiny",
        device="one thread",
        origin="measured",
        kv_bytes_per_token=64,
        configurations=(configuration(1), configuration(2), configuration(1, op=2)),
    )
    base = of_profile(profile, tp=1, link_bytes_per_s=1e9)
    assert base.measured == {1, 2}
    assert base.kv_bytes_per_token == 64
    assert_close(base.latency(2), lawful(2))
    assert_close(base.latency(4), lawful(4))
    assert of_profile(profile, tp=2, link_bytes_per_s=1e9).measured == {1}
    with pytest.raises(UsageError, match="op=4"):
        of_profile(profile, tp=4, link_bytes_per_s=1e9)
