"""The model of the A800s: near to what was measured, and of one piece where nothing was."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from engine.simulation.fleet.device_model import DeviceModel, fit_devices, residuals
from engine.simulation.fleet.measured import CELLS, Cell, split_name
from engine.simulation.fleet.set_up import loongserve_set_up

MODEL = fit_devices(CELLS)
SPLITS = ((1, 8), (2, 4), (4, 2), (1, 1))


def test_prefills_are_within_5_and_decodes_within_20_percent_of_every_measured_cell() -> None:
    found = residuals(MODEL, CELLS)
    assert len(found) == 19
    assert {(each.cell.sp, each.cell.tp) for each in found} == set(SPLITS)
    assert max(abs(each.prefill) for each in found) <= 0.05
    assert max(abs(each.decode) for each in found) <= 0.20
    four = [each for each in found if each.cell.name.startswith(split_name(4, 2))]
    assert len(four) == 6
    assert max(abs(each.decode) for each in four) <= 0.10


def test_a_model_is_found_again_in_what_it_says() -> None:
    given = DeviceModel(
        compute=50e-6,
        all_reduce=4e-6,
        ring=3e-6,
        attention=1.2e-9,
        stripes=2e-10,
        constant=9e-3,
        exchange=3e-3,
        context=3e-7,
        sequence=1e-4,
    )
    cells = []
    for each in CELLS:
        latency = given.latency(each.sp, each.tp)
        cells.append(
            Cell(
                sp=each.sp,
                tp=each.tp,
                batch=each.batch,
                length=each.length,
                prefill_s=latency.iteration_s([(each.length, 0)] * each.batch, 0, 0),
                decode_s=latency.decode_s(each.batch, each.batch * each.length),
            )
        )
    assert asdict(fit_devices(cells)) == pytest.approx(asdict(given), rel=1e-6)


def test_wider_splits_are_quicker_and_cost_more_of_every_device() -> None:
    for splits in (((1, 1), (1, 2), (1, 4), (1, 8)), ((1, 2), (2, 2), (3, 2), (4, 2))):
        found = [(sp * tp, MODEL.latency(sp, tp)) for sp, tp in splits]
        for length in (1_000, 100_000):
            times = [latency.prefill_s(length) for _, latency in found]
            assert times == sorted(times, reverse=True)
            spent = [devices * latency.prefill_s(length) for devices, latency in found]
            assert spent == sorted(spent)
        contexts = [latency.decode_s(8, 400_000) for _, latency in found]
        assert contexts == sorted(contexts, reverse=True)


def test_the_fleet_of_the_paper_has_what_was_measured_and_extrapolates_the_rest() -> None:
    set_up = loongserve_set_up()
    assert set_up.base.measured == {4}
    assert set_up.base.latency(4) == MODEL.latency(4, 2)
    assert set_up.base.latency(1) == MODEL.latency(1, 2)
    assert set_up.whole == MODEL.latency(1, 8)
    assert set_up.slots == {0: 210_000, 1: 210_000, 2: 210_000, 3: 210_000}
    assert set_up.uncapped
