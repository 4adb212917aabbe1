"""What is in a compiled kernel."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from triton import knobs

SPILLS = ("STL", "LDL")
"""Instructions that keep values in memory for want of registers."""
_INSTRUCTION = re.compile(
    r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+\s+)?([A-Z][A-Z0-9_.]*)", re.MULTILINE
)
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+)")


def disassemble(cubin: bytes) -> tuple[int, int, Counter[str]]:
    """Registers, bytes of stack, instructions."""
    tool = knobs.nvidia.cuobjdump.path
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "kernel.cubin"
        file.write_bytes(cubin)
        usage, code = (
            subprocess.run([tool, option, file], capture_output=True, text=True, check=True).stdout
            for option in ("-res-usage", "-sass")
        )
    found = _USAGE.search(usage)
    assert found is not None, usage
    return int(found[1]), int(found[2]), Counter(_INSTRUCTION.findall(code))
