"""GPUs as the store tells of them: all of it goes through pynvml, ctypes and a real library.

``-k real`` runs the contract on this machine's own GPUs, where it has any.
"""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from collectors.query.direct import Store
from collectors.query.gpu_views import GPU_EVENTS, GPU_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Watch = Callable[..., Any]

GPU_COUNT = 8


def rows(store: Store, sql: str) -> list[dict[str, Any]]:
    answer = store.query(sql)
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]


def events(store: Store, what: str, columns: str) -> list[tuple[Any, ...]]:
    return store.rows(
        f"SELECT {columns} FROM gpu_events WHERE event = '{what}' ORDER BY at_ns, gpu, kind"
    )


def names(told: dict[str, Any]) -> list[str]:
    return [name for name in told["happenings"] if name != "gpu.device"]


def test_contract(home: Path, any_machine: tuple[str, Any, dict[str, Any]]) -> None:
    """Whatever the machine: what is told is what the schema names, and within its bounds."""
    kind, watcher, _ = any_machine
    for second in (1.0, 2.0):
        time.sleep(1.0 if kind == "real" else 0)
        assert watcher.read(second)["absent"] is None
    watcher.close()
    with Store.open(home) as store:
        gpus = rows(store, "FROM gpus ORDER BY gpu")
        samples = rows(store, "FROM gpu_samples")
        kinds = {kind for (kind,) in store.rows("SELECT event FROM gpu_events")}

    assert gpus
    for gpu in gpus:
        assert gpu["name"]
        assert gpu["driver"]
        assert gpu["uuid"].startswith("GPU-")
        assert gpu["source"] == ("fake" if kind == "fake" else "nvml")
        assert gpu["memory_bytes"] > 2**30

    assert {row["source"] for row in samples} == {gpus[0]["source"]}
    documented = set(re.findall(r"\w+", GPU_SAMPLES.about))
    assert {row["metric"] for row in samples} <= documented
    for gpu in gpus:
        own = [row for row in samples if row["gpu"] == gpu["gpu"]]
        last = {row["metric"]: row["value"] for row in own}
        assert last.keys() >= {"memory_used_bytes", "temperature_c", "sm_clock_mhz"}
        assert 0 <= last["memory_used_bytes"] <= last["memory_total_bytes"] == gpu["memory_bytes"]
        assert 0 < last["temperature_c"] < 120
        assert 0 < last.get("power_w", 1) < 3000
        assert 0 < last["sm_clock_mhz"] <= gpu["sm_clock_max_mhz"]
        shares = [row["value"] for row in own if row["metric"].endswith("_pct")]
        assert all(0 <= share <= 100 for share in shares)
        assert all(row["value"] >= 0 for row in own)

    assert kinds <= set(re.findall(r"\w+", GPU_EVENTS.about))
    assert not kinds & {"lost", "back"}


def test_eight_devices_are_read_exactly(home: Path, watch: Watch) -> None:
    """Every value comes through with its unit; rates come of two readings; nothing befell."""
    watcher = watch()
    first = watcher.read(0.0)
    assert names(first) == []
    watcher.machine.set(
        {
            "2.field.138.4294967295": 1024 + 500,
            "2.field.197": 1_000_000 + 64_000,
            "2.violation.0": 1_500_000_000,
            "5.power": 1_250,
            "5.util": 0,
        }
    )
    watcher.read(2.0)
    watcher.close()

    with Store.open(home) as store:
        measured = store.rows("SELECT gpu, metric, value FROM gpu_samples ORDER BY at_ns")
        [gpu] = rows(store, "FROM gpus WHERE gpu = 7")
        assert store.rows("FROM gpu_events") == []
    last = {(number, metric): value for number, metric, value in measured}
    assert {number for number, _ in last} == set(range(GPU_COUNT))
    expected = {
        "util_pct": 97, "memory_util_pct": 41, "power_w": 612.5, "power_limit_w": 700,
        "memory_used_bytes": 90e9, "memory_total_bytes": 150e9, "fan_pct": 30,
        "temperature_c": 64, "memory_temperature_c": 71, "sm_clock_mhz": 1755,
        "memory_clock_mhz": 3201, "performance_state": 0, "throttle_reasons": 0,
        "power_throttle_pct": 0, "thermal_throttle_pct": 0, "pcie_tx_bytes_per_s": 0,
        "nvlink_tx_bytes_per_s": 0, "ecc_corrected": 3, "ecc_uncorrected_ever": 1,
        "ecc_corrected_ever": 40, "remapped_rows_corrected": 2, "remapped_rows_pending": 0,
        "pcie_replays": 5, "pcie_width": 16, "pcie_generation": 5, "nvlinks_active": 4,
        "nvlink_replay_errors": 4, "nvlink_crc_errors": 0, "processes": 0,
    }  # fmt: skip
    assert {metric: last[0, metric] for metric in expected} == expected
    assert last[2, "nvlink_tx_bytes_per_s"] == 500 * 1024 / 2
    assert last[2, "pcie_tx_bytes_per_s"] == 32_000
    assert last[2, "power_throttle_pct"] == 25
    assert (last[5, "power_w"], last[5, "util_pct"]) == (1.25, 0)

    assert gpu["name"] == "FAKE H200"
    assert gpu["uuid"] == "GPU-fa4e0000-0000-0000-0000-000000000007"
    assert (gpu["pci_bus"], gpu["driver"]) == ("00000000:17:00.0", "580.65.06")
    assert (gpu["sm_clock_max_mhz"], gpu["nvlinks"], gpu["mig"]) == (1980, 4, False)


def test_faults_become_events(home: Path, watch: Watch) -> None:
    """XID, ECC, rows, links and throttling, each injected while the sampler runs."""
    watcher = watch({"3.processes": "4711:1000"})
    watcher.read(0.0)
    watcher.machine.set(
        {
            "xid.0": "3 79",
            "xid.1": "3 79",
            "xid.2": "1 999",
            "2.ecc.0.0": 10,
            "4.ecc.1.0": 1,
            "4.rows": "2 1 1 0",
            "5.field.163.2": 17,
            "6.nvlink.1": 0,
            "7.pcie_replays": 9,
            "7.pcie_width": 8,
            "0.throttle": 0x40 | 0x1,
        }
    )
    watcher.read(1.0)
    watcher.machine.set({"0.throttle": 0x1 | 0x2, "6.nvlink.1": 1})
    watcher.read(2.0)
    watcher.machine.set({"0.throttle": 0x40 | 0x20})
    watcher.read(5.0)
    watcher.machine.set({"0.throttle": 0})
    for second in (6.0, 9.0, 10.0):
        watcher.read(second)
    watcher.close()

    with Store.open(home) as store:
        bus, unknown = events(store, "xid", "gpu, xid, count, reason, pids, source, remedy")
        ecc = events(store, "ecc", "gpu, kind, count, total")
        columns = "gpu, kind, corrected, uncorrected, pending, failure"
        remapped = events(store, "remapped_rows", columns)
        links = events(store, "link_error", "gpu, bus, link, kind, count, total")
        throttled = events(store, "throttle", "gpu, reason, state, duration_s")
    assert unknown[:3] == (1, 999, 1)
    assert bus[:6] == (3, 79, 2, "the GPU has fallen off the bus", [4711], "fake")
    assert "reboot" in bus[6]
    assert ecc == [(2, "corrected", 7, 10), (4, "uncorrected", 1, 1)]
    assert remapped == [(4, "rows", 2, 1, True, False)]
    assert links == [
        (5, "nvlink", 2, "crc", 17, 17),
        (6, "nvlink", 1, "inactive", None, None),
        (7, "pcie", None, "replay", 4, 9),
        (7, "pcie", None, "narrower", 8, 8),
        (6, "nvlink", 1, "active", None, None),
    ]
    assert throttled == [
        (0, "hw_thermal", "began", None),
        (0, "sw_thermal", "began", None),
        (0, "sw_thermal", "ended", 0.0),
        (0, "hw_thermal", "ended", 4.0),
    ], "a pause of three seconds ends nothing"


def test_a_device_is_lost_half_way_and_comes_back(home: Path, watch: Watch) -> None:
    """What it said before it was lost counts, the others go on, and it keeps its number."""
    watcher = watch()
    watcher.read(0.0)
    watcher.machine.set({"3.error.nvmlDeviceGetPowerUsage": 15})
    lost = watcher.read(1.0)
    assert names(lost) == ["gpu.lost"]
    assert "gpu.3.util_pct" in lost["readings"]
    assert "gpu.3.temperature_c" not in lost["readings"]
    assert "gpu.4.temperature_c" in lost["readings"]

    watcher.machine.set({"3.error": 15})
    assert names(watcher.read(2.0)) == [], "it is told once"
    # The driver does not list it now, and the numbers of those behind it go up by one.
    watcher.machine.set({"devices": 7, "order": "0 1 2 4 5 6 7", "7.temperature.0": 77})
    unlisted = watcher.read(31.0)
    assert names(unlisted) == []
    assert unlisted["readings"]["gpu.7.temperature_c"] == 77
    assert "gpu.3.util_pct" not in unlisted["readings"]
    watcher.machine.set(
        {"devices": 8, "order": None, "3.error": None, "3.error.nvmlDeviceGetPowerUsage": None}
    )
    assert names(watcher.read(40.0)) == [], "NVML does not see it before it is opened anew"
    assert names(watcher.read(61.0)) == ["gpu.back"]
    watcher.close()
    with Store.open(home) as store:
        [(gpu, uuid, reason)] = events(store, "lost", "gpu, uuid, reason")
        assert events(store, "back", "gpu, duration_s") == [(3, 60.0)]
    assert (gpu, uuid[-1], reason) == (3, "3", "it has fallen off the bus")


def test_a_device_that_is_lost_from_the_start_is_told(watch: Watch) -> None:
    watcher = watch({"1.error.nvmlDeviceGetHandleByIndex_v2": 15, "devices": 2})
    assert names(watcher.read(0.0)) == ["gpu.lost"]
    watcher.machine.set({"1.error.nvmlDeviceGetHandleByIndex_v2": None})
    assert names(watcher.read(1.0)) == []
    back = watcher.read(30.0)
    assert names(back) == ["gpu.back"]
    assert "gpu.1.util_pct" in back["readings"]
    watcher.close()


def test_what_is_denied_is_told_once_and_not_asked_again(home: Path, watch: Watch) -> None:
    """Rights are a matter of the machine: one event for all its devices. Others, for each."""
    denied = {"*.error.nvmlDeviceGetTotalEccErrors": 4, "*.error.field.161": 4}
    watcher = watch({**denied, "5.error.nvmlDeviceGetFanSpeed": 999})
    told = watcher.read(0.0)
    assert names(told) == ["gpu.unreadable"] * 6
    assert "gpu.0.ecc_corrected" not in told["readings"]
    assert "gpu.5.power_w" in told["readings"]
    watcher.machine.set(dict.fromkeys(denied))
    later = watcher.read(1.0)
    assert names(later) == []
    assert "gpu.0.ecc_corrected" not in later["readings"]
    assert "gpu.0.ecc_corrected" in watcher.read(601.0)["readings"], "asked for again"
    watcher.close()
    with Store.open(home) as store:
        found = events(store, "unreadable", "gpu, kind, reason, remedy")
    assert found[0][:3] == (0, "ecc_corrected", "Insufficient Permissions")
    assert "root" in found[0][3]
    assert (5, "fan_pct") in [row[:2] for row in found]


def test_a_poor_device_is_missing_much_and_says_nothing(home: Path, watch: Watch) -> None:
    """Old library, MIG, no ECC, no NVLink: what is not supported is absent, never 0."""
    has = {"*.name", "*.uuid", "devices", "driver", "*.memory_total", "*.memory_used"}
    has |= {"*.throttle", "*.temperature.0", "*.clock.1", "*.clock_max.1"}
    watcher = watch(flags=("-DBEFORE_535",))
    gone = {key: None for key in watcher.machine.says if key not in has}
    watcher.machine.set({**gone, "*.mig": 1, "*.pcie_throughput.0": 100, "*.type.197": 1,
                         "*.field.197": 5, "*.field.91": 1, "*.nvlink_error.0.2": 0})  # fmt: skip
    first = watcher.read(0.0)
    watcher.machine.set({"*.nvlink_error.0.2": 6, "0.throttle": 0x4, "devices": 8})
    second = watcher.read(1.0)
    watcher.close()
    assert names(first) == []
    assert {name for name in first["readings"] if name.startswith("gpu.0.")} == {
        "gpu.0.memory_used_bytes",
        "gpu.0.memory_total_bytes",
        "gpu.0.temperature_c",
        "gpu.0.sm_clock_mhz",
        "gpu.0.throttle_reasons",
        "gpu.0.pcie_tx_bytes_per_s",
        "gpu.0.nvlink_crc_errors",
    }
    assert first["readings"]["gpu.0.pcie_tx_bytes_per_s"] == 102_400
    assert names(second).count("gpu.link_error") == GPU_COUNT
    assert names(second).count("gpu.throttle") == 1
    with Store.open(home) as store:
        assert store.rows("SELECT DISTINCT mig FROM gpus") == [(True,)]


ABSENT: tuple[tuple[dict[str, object], str], ...] = (
    ({"init": 9}, "modprobe"),
    ({"init": 4}, "/dev/nvidiactl"),
    ({"init": 18}, "reboot"),
    ({"init": 999}, "NVML does not start: Unknown Error"),
    ({"devices": 0}, "no GPU"),
    ({"devices": 1, "*.error.nvmlDeviceGetHandleByIndex_v2": 4}, "no GPU"),
    ({"devices": 1, "gone": 9}, "modprobe"),
)
THERE = {"init": 0, "gone": None, "devices": 1, "*.error.nvmlDeviceGetHandleByIndex_v2": None}


def test_no_driver_says_what_to_do_and_may_come_later(watch: Watch) -> None:
    watcher = watch({"devices": 0})
    for number, (changes, says) in enumerate(ABSENT):
        watcher.machine.set({**THERE, "devices": 0, **changes})
        start_s = 100.0 * number
        for second in (0.0, 29.0):
            assert says in watcher.read(start_s + second)["absent"], changes
            watcher.machine.set(THERE)  # but it is not looked for every second
    assert "gpu.0.util_pct" in watcher.read(1000.0)["readings"]
    watcher.close()


def test_no_library_says_so(watch: Watch, compiled: Any) -> None:
    (compiled("-DNONE") / "libnvidia-ml.so.1").write_text("this is no library")
    told = watch(flags=("-DNONE",)).read(0.0)
    assert "--gpus all" in told["absent"]
    assert told["readings"] == {}


@pytest.mark.parametrize("code", [1, 9])
def test_a_driver_that_is_loaded_anew_is_read_anew(watch: Watch, code: int) -> None:
    watcher = watch()
    watcher.read(0.0)
    watcher.machine.set({"gone": code})
    assert "driver" in watcher.read(100.0)["absent"]
    watcher.machine.set({"gone": None, "init": 9})
    assert "not loaded" in watcher.read(101.0)["absent"]
    watcher.machine.set({"init": 0, "2.ecc.1.0": 2})
    again = watcher.read(131.0)
    assert again["absent"] is None
    assert names(again) == ["gpu.ecc"], "what came meanwhile is told"
    assert "gpu.7.util_pct" in again["readings"]
    watcher.close()


def test_processes_are_joined_with_ranks(
    home: Path, watch: Watch, open_rank: Callable[[int], Any]
) -> None:
    open_rank(1)
    pid = os.getpid()
    watcher = watch({"devices": 1, "*.processes": f"{pid}:1000 77:2000"})
    assert watcher.read(0.0)["readings"]["gpu.0.processes"] == 2
    watcher.machine.set({"*.processes": f"{pid}:3000"})
    assert names(watcher.read(1.0)) == ["gpu.process"]
    watcher.read(31.0)
    watcher.close()
    with Store.open(home) as store:
        found = store.rows("SELECT pid, rank, state, used_bytes FROM gpu_processes ORDER BY rank")
    assert found == [
        (pid, 1, "running", 3000),
        (77, None, "ended", 2000),
    ]


def test_eight_devices_cost_little(watch: Watch) -> None:
    """Of a second, a reading takes less than 10 ms of CPU; slow parts are spread over readings."""
    watcher = watch(slow_s=5.0)
    watcher.read(0.0)
    costs = [watcher.read(float(second))["cpu_s"] for second in range(1, 16)]
    watcher.close()
    assert sorted(costs)[len(costs) // 2] < 0.010, costs


def test_a_call_that_hangs_stops_no_other_thread(watch: Watch) -> None:
    """The driver may not answer for long; the process that waits for it goes on."""
    watcher = watch({"2.hang_ms.nvmlDeviceGetPowerUsage": 300})
    assert watcher.read(0.0)["ticks"] > 10
    watcher.close()
