"""InfiniBand ports on a fixture tree: traffic, errors, flaps, and what goes away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from collectors.errors import DataError
from collectors.samplers.infiniband import InfinibandSampler
from collectors.samplers.sampler import Absent, Happening, Reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    Tree = Any  # the conftest's
    Clock = Any

CLASS = "sys/class/infiniband"


def port(device: str = "mlx5_0", *, state: str = "4: ACTIVE", **counters: object) -> dict[str, str]:
    place = f"{CLASS}/{device}/ports/1"
    told = {"port_rcv_data": 0, "port_xmit_data": 0, "symbol_error": 0, "link_downed": 0}
    files = {f"counters/{name}": value for name, value in {**told, **counters}.items()}
    files |= {"state": state, "rate": "400 Gb/sec (4X NDR)", "hw_counters/out_of_sequence": 3}
    files |= {"hw_counters/lifespan": 10, "counters/port_rcv_errors": "N/A (no PMA)"}
    return {f"{place}/{name}": f"{value}\n" for name, value in files.items()}


def readings(found: Sequence[Reading | Happening]) -> dict[str, float]:
    return {one.name: one.value for one in found if isinstance(one, Reading)}


def happenings(found: Sequence[Reading | Happening]) -> list[Happening]:
    return [one for one in found if isinstance(one, Happening)]


@pytest.fixture
def sampler(tree: Tree, clock: Clock) -> InfinibandSampler:
    """Over two ports that were read once."""
    tree.write({**port(), **port("mlx5_1")})
    made = InfinibandSampler(tree.root, clock=clock)
    assert readings(made.read()) == {
        f"ib.mlx5_{number}/1.{name}": value
        for number in (0, 1)
        for name, value in (("active", 1.0), ("rate_gbps", 400.0))
    }
    clock.now_s += 2.0
    return made


def test_data_counters_are_words_of_four_bytes_and_of_64_bits(
    sampler: InfinibandSampler, tree: Tree, clock: Clock
) -> None:
    tree.write(port(port_rcv_data=2**40, port_xmit_data=500, port_xmit_wait=7))
    found = readings(sampler.read())
    assert found["ib.mlx5_0/1.rx_bytes_per_s"] == 2**41
    assert found["ib.mlx5_0/1.tx_bytes_per_s"] == 1000
    assert found["ib.mlx5_1/1.rx_bytes_per_s"] == 0
    clock.now_s += 1.0
    tree.write(port(port_rcv_data=8))
    found = readings(sampler.read())
    assert "ib.mlx5_0/1.rx_bytes_per_s" not in found, "it was set back"
    assert "ib.mlx5_0/1.tx_bytes_per_s" not in found


def test_errors_flaps_and_states_are_told(
    sampler: InfinibandSampler, tree: Tree, clock: Clock
) -> None:
    who = {"device": "mlx5_0", "port": 1}
    tree.write(port(symbol_error=4, link_downed=2, state="1: DOWN"))
    tree.write({f"{CLASS}/mlx5_0/ports/1/hw_counters/out_of_sequence": "5\n"})
    found = sampler.read()
    assert readings(found)["ib.mlx5_0/1.active"] == 0.0
    assert happenings(found) == [
        Happening("ib.state", {**who, "before": "ACTIVE", "state": "DOWN"}),
        Happening("ib.flap", {**who, "count": 2}, 2.0),
        Happening("ib.error", {**who, "count": 4, "symbol_error": 4}, 4.0),
        Happening("ib.error", {**who, "count": 2, "out_of_sequence": 2}, 2.0),
    ]
    clock.now_s += 1.0
    assert happenings(sampler.read()) == []


def test_a_device_that_goes_is_told_and_the_others_go_on(
    sampler: InfinibandSampler, tree: Tree, clock: Clock
) -> None:
    tree.remove(f"{CLASS}/mlx5_0")
    found = sampler.read()
    gone = {"device": "mlx5_0", "port": 1, "before": "ACTIVE", "state": "GONE"}
    assert happenings(found) == [Happening("ib.state", gone)]
    assert "ib.mlx5_1/1.active" in readings(found)
    tree.remove(f"{CLASS}/mlx5_1")
    [last] = happenings(sampler.read())
    assert last.attributes["device"] == "mlx5_1"
    with pytest.raises(Absent, match="no port"):
        sampler.read()


def test_absent_and_denied(tree: Tree, clock: Clock) -> None:
    sampler = InfinibandSampler(tree.root, clock=clock)
    with pytest.raises(Absent, match=r"there is no .*infiniband"):
        sampler.read()
    tree.write(port())
    with tree.denied(CLASS), pytest.raises(Absent, match="may not read"):
        sampler.read()
    with tree.denied(f"{CLASS}/mlx5_0/ports"), pytest.raises(Absent, match="may not read"):
        sampler.read()
    assert readings(sampler.read())
    sampler.close()


def test_a_directory_that_is_denied_leaves_the_rest_and_is_told_once(
    sampler: InfinibandSampler, tree: Tree, clock: Clock
) -> None:
    hidden = f"{CLASS}/mlx5_0/ports/1/hw_counters"
    with tree.denied(hidden):
        found = sampler.read()
        assert "ib.mlx5_0/1.rx_bytes_per_s" in readings(found)
        [told] = happenings(found)
        assert (told.name, told.attributes["part"]) == ("sampler.absent", "mlx5_0/1 hw_counters")
        assert hidden in told.attributes["reason"]
        assert happenings(sampler.read()) == []


def test_failing_half_way(sampler: InfinibandSampler, tree: Tree, clock: Clock) -> None:
    """Garbage of a port leaves the other's figures; where none can be read, it is an error."""
    tree.write({f"{CLASS}/mlx5_0/ports/1/state": "", f"{CLASS}/mlx5_0/ports/1/rate": "?"})
    tree.write({f"{CLASS}/mlx5_0/ports/1/counters/symbol_error": "many"})
    found = sampler.read()
    assert "ib.mlx5_0/1.active" not in readings(found)
    assert "ib.mlx5_1/1.active" in readings(found)
    assert {one.attributes["part"] for one in happenings(found)} == {
        "mlx5_0/1 state",
        "mlx5_0/1 counters",
    }
    tree.remove(f"{CLASS}/mlx5_1")
    tree.write({f"{CLASS}/mlx5_0/ports/1/hw_counters/out_of_sequence": "-"})
    with pytest.raises(DataError, match="mlx5_0"):
        sampler.read()
