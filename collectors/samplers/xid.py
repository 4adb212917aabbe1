"""XIDs: the numbers in which NVIDIA's driver reports a device's errors, and what to do about them.

After NVIDIA's catalogue of XID errors (docs.nvidia.com/deploy/xid-errors).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Xid:
    """What a number means (``what``), and what to do about it (``remedy``)."""

    what: str
    remedy: str


_PROGRAM = (
    "look for the fault in the program first (compute-sanitizer); suspect the device if other "
    "programs meet it there too"
)
_FOLLOWS = "look at the XID before it, of which this follows"
_RESET = "drain the node and reset the GPU (nvidia-smi -r)"
_REPLACE = "drain the node, run NVIDIA's field diagnostics, replace the GPU if they fail"
_REBOOT = (
    "drain the node and reboot it; if it returns, check power, seating and risers, then replace"
)
_LINK = "reset the GPUs of this fabric; if it returns, check cables, NVSwitch and fabric manager"
_DRIVER = "reset the GPU; if it returns, update driver and firmware, and send nvidia-bug-report"
_WATCH = "nothing now; the GPU is to be reset when the job ends if rows are pending"

_KNOWN = {
    13: Xid("graphics engine exception", _PROGRAM),
    31: Xid("memory page fault: an address that is not mapped", _PROGRAM),
    32: Xid("invalid or corrupted push buffer", _REPLACE),
    38: Xid("driver firmware error", _DRIVER),
    43: Xid("the GPU stopped processing for one program", _PROGRAM),
    44: Xid("graphics engine fault at a context switch", _DRIVER),
    45: Xid("work was cancelled, after another error or a killed program", _FOLLOWS),
    46: Xid("the GPU stopped processing", _DRIVER),
    48: Xid("uncorrectable (double-bit) ECC error", _RESET),
    61: Xid("internal micro-controller breakpoint or warning", _DRIVER),
    62: Xid("internal micro-controller halt", _DRIVER),
    63: Xid("a memory row was remapped, or a page retired", _WATCH),
    64: Xid("remapping a memory row, or retiring a page, failed", _REPLACE),
    68: Xid("video decoder exception", _PROGRAM),
    69: Xid("graphics engine class error", _PROGRAM),
    74: Xid("NVLink error", _LINK),
    79: Xid("the GPU has fallen off the bus", _REBOOT),
    92: Xid("high rate of single-bit ECC errors", _REPLACE),
    94: Xid("contained ECC error: only the program that met it is lost", _RESET),
    95: Xid("uncontained ECC error: other programs are lost too", _RESET),
    109: Xid("time-out of a context switch", _DRIVER),
    119: Xid("the GPU's system processor (GSP) does not answer", _DRIVER),
    120: Xid("error of the GPU's system processor (GSP)", _DRIVER),
    121: Xid("error of the chip-to-chip link to the CPU", _RESET),
    137: Xid("NVLink fabric access fault", _PROGRAM),
    140: Xid("unrecovered ECC error", _RESET),
    143: Xid("the GPU could not be initialised", _REBOOT),
    145: Xid("NVLink error (RLW)", _LINK),
    149: Xid("NVLink error (NETIR)", _LINK),
    154: Xid("the driver says how this GPU recovers", "see recovery action in nvidia-smi -q"),
    156: Xid("a resource was retired", _WATCH),
    157: Xid("retiring a resource failed", _REPLACE),
    171: Xid("uncorrectable ECC error in device memory", _RESET),
    172: Xid("uncorrectable ECC error in on-chip memory", _RESET),
}
_UNKNOWN = Xid(
    "not in opsuite's list", "look it up in NVIDIA's catalogue (docs.nvidia.com/deploy/xid-errors)"
)


def xid(number: int) -> Xid:
    """What is known of an XID; of a number that is not known, where to look."""
    return _KNOWN.get(number, _UNKNOWN)
