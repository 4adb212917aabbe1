"""What lines of a log mean trouble: lines in, events out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a line is for the run."""

    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


@dataclass(frozen=True, kw_only=True)
class LogRule:
    """A kind of trouble, and the words by which a line shows it.

    Attributes:
        hints: in small letters; a line without any of them is not looked at more closely.
    """

    name: str
    severity: Severity
    hints: tuple[str, ...]
    words: re.Pattern[str]


def _rule(name: str, severity: Severity, hints: str, *words: str) -> LogRule:
    return LogRule(
        name=name,
        severity=severity,
        hints=tuple(hints.split("|")),
        words=re.compile("|".join(words), re.IGNORECASE),
    )


_VALUE = r"(?:tensor\(|array\()?[-+]?(?:nan|inf|infinity)(?!\w|[.-]\w)"
_MEASURE = r"(?:loss|grad_?norm|gradient_norm|perplexity|ppl)"

RULES = (
    _rule(
        "oom_killed",
        Severity.CRITICAL,
        "out of memory: killed|oom|cgroup out of",
        r"\bout of memory: killed process",
        r"\boom[-_ ]kill",
        r"\bmemory cgroup out of memory",
        r"\bdetected \d+ oom",
    ),
    _rule(
        "xid", Severity.CRITICAL, "xid", r"\bNVRM: Xid\b", r"\bXid (?:error )?\d+\b", r"\bXid \("
    ),
    _rule(
        "ecc",
        Severity.CRITICAL,
        "ecc",
        r"\b(?<!no )(?<!\b0 )(?:uncorrectable|double[- ]bit) ecc (?:memory )?error",
        r"\bECC error(?:s? (?:encountered|detected|occurred)|:)(?!\s*0\b)",
    ),
    _rule(
        "out_of_memory",
        Severity.ERROR,
        "out of memory|outofmemory|allocate|memoryerror|bad_alloc",
        r"\bCUDA out of memory",
        r"\bOutOfMemoryError\b",
        r"\bcan't allocate memory",
        r"\bcannot allocate memory",
        r"^MemoryError\b",
        r"\bstd::bad_alloc\b",
        r"\bfailed to allocate \d+ bytes",
    ),
    _rule(
        "shared_memory",
        Severity.ERROR,
        "shared memory|bus error",
        r"\binsufficient shared memory",
        r"\bBus error\b",
        r"\bunable to (?:open|write to|allocate) (?:file )?shared memory",
    ),
    _rule(
        "collective_timeout",
        Severity.ERROR,
        "operation",
        r"\bWatchdog caught collective operation timeout",
        r"\bcollective operation timeout",
        r"\bTimed out waiting \d+ ?ms for (?:recv|send) operation",
    ),
    _rule(
        "nccl_error",
        Severity.ERROR,
        "nccl|completion from peer|ibv_",
        r"\bNCCL error\b",
        r"\bnccl(?:System|Internal|UnhandledCuda|Remote|InvalidUsage|InvalidArgument)(?:Error)?\b",
        r"\bNCCL (?:communicator|watchdog thread|operations? ha(?:s|ve)).{0,40}"
        r"\b(?:abort|terminat|failed)",
        r"\bGot completion from peer .{0,80}\bstatus=[1-9]",
        r"\bIBV_WC_[A-Z_]*ERR\b",
        r"\bibv_\w+ failed",
    ),
    _rule("nccl_warning", Severity.WARNING, "nccl warn", r"\bNCCL WARN\b"),
    _rule(
        "cuda_error",
        Severity.ERROR,
        "cuda|device-side|cublas_|cudnn_|illegal memory",
        r"\bCUDA error\b",
        r"\bCUDA (?:driver|runtime) error\b",
        r"\bdevice-side assert triggered",
        r"\bCUBLAS_STATUS_(?!SUCCESS)\w+",
        r"\bCUDNN_STATUS_(?!SUCCESS)\w+",
        r"\bcudaError(?!Success)[A-Z]\w+",
        r"\bAn illegal memory access was encountered",
    ),
    _rule(
        "connection",
        Severity.ERROR,
        "connection|broken pipe|connectfullmesh|gloo|distnetwork|socket timeout",
        r"\bConnection (?:closed|reset) by (?:remote )?peer",
        r"\bConnection (?:refused|timed out)\b",
        r"\bBroken pipe\b",
        r"\bconnectFullMesh failed",
        r"\bgloo.{0,120}\b(?:timed? ?out|error|failed)\b",
        r"\bDistNetworkError\b",
        r"\bSocket Timeout\b",
    ),
    _rule(
        "address_in_use",
        Severity.ERROR,
        "address already|eaddrinuse",
        r"\bAddress already in use\b",
        r"\bEADDRINUSE\b",
    ),
    _rule(
        "disk_full",
        Severity.ERROR,
        "no space left|quota exceeded|enospc",
        r"\bNo space left on device\b",
        r"\bDisk quota exceeded\b",
        r"\bENOSPC\b",
    ),
    _rule("too_many_files", Severity.ERROR, "too many open", r"\bToo many open files\b"),
    _rule(
        "rank_failed",
        Severity.ERROR,
        "exitcode|received by pid|terminated with",
        r"\bfailed \(exitcode: -?\d+\)",
        r"\bSignal \d+ \(SIG[A-Z]+\) received by PID",
        r"\bprocess \d+ terminated with (?:signal|exit code)",
    ),
    _rule(
        "crash",
        Severity.ERROR,
        "segmentation|sigsegv|fatal python|terminate called|sigabrt|sigbus|illegal instr",
        r"\bSegmentation fault\b",
        r"\bSIGSEGV\b",
        r"\bFatal Python error\b",
        r"\bterminate called after throwing\b",
        r"\bSIGABRT\b",
        r"\bSIGBUS\b",
        r"\bIllegal instruction\b",
    ),
    _rule(
        "not_finite",
        Severity.WARNING,
        "nan|inf|finite",
        rf"{_MEASURE}[\"']?\]?\s{{0,8}}(?:[:=]|is|was|became)?\s{{0,8}}[\"']?{_VALUE}",
        r"\b(?:found|detected|encountered|produced) (?:an? )?(?:nans?|infs?)\b",
        r"(?<!no )(?<!any )\b(?:nans?|infs?) (?:was |were )?(?:found|detected|encountered)\b",
        r"\b(?:nans?|infs?) (?:value )?in (?:the )?(?:loss|grad|model|weight|activation|output)",
        r"\bnon-?finite (?:loss|grad|value)",
    ),
)
"""In the order of asking: the first that fits names the line."""

TRACEBACK = "traceback"
"""A whole Python traceback; its line is the error's."""

_HINTS = tuple((hint, rule) for rule in RULES for hint in rule.hints)
_MOST_CHARACTERS = 4096  # of a line that is looked at


def match_rule(line: str) -> LogRule | None:
    """The rule that ``line`` (its first 4096 characters) falls under; None: it is no trouble."""
    line = line[:_MOST_CHARACTERS]
    small = line.lower()
    for hint, rule in _HINTS:
        if hint in small and rule.words.search(line):
            return rule
    return None


_NUMBERS = re.compile(
    r"0x[0-9a-f]+|\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}|\b[0-9a-f]{12,}\b|\d+", re.IGNORECASE
)


def normalised(line: str) -> str:
    """A line without what differs each time: numbers, addresses, process ids, times."""
    return _NUMBERS.sub("#", line[:_MOST_CHARACTERS])
