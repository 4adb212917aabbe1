"""Prometheus's names for our samples: ``gpu.0.power_w`` is ``opsuite_gpu_power_watts``."""

from __future__ import annotations

import re

_ODD = re.compile(r"[^a-zA-Z0-9_]")
# The end of a name, Prometheus's for it, and what the value is multiplied with.
_UNITS = (
    ("_per_s", "_per_second", 1.0),
    ("_pct", "_ratio", 0.01),
    ("_mhz", "_hertz", 1e6),
    ("_w", "_watts", 1.0),
    ("_j", "_joules", 1.0),
    ("_c", "_celsius", 1.0),
    ("_ms", "_seconds", 1e-3),
    ("_us", "_seconds", 1e-6),
    ("_ns", "_seconds", 1e-9),
    ("_s", "_seconds", 1.0),
)


def metric_of(sample: str) -> tuple[str, str, float]:
    """A sample's metric, its device ("" where it has none), and the factor to the metric's unit.

    Samples are named ``family.metric`` or ``family.device.metric``.
    """
    family, *device, metric = sample.split(".")
    factor = 1.0
    for ours, theirs, by in _UNITS:
        if metric.endswith(ours):
            metric, factor = metric.removesuffix(ours) + theirs, by
            break
    return _ODD.sub("_", f"opsuite_{family}_{metric}"), ".".join(device), factor
