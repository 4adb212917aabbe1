"""What an installation holds: every module of ours, whatever else is installed."""

from __future__ import annotations

import subprocess
import sys

IMPORT_ALL = """
import importlib, pkgutil, warnings
warnings.simplefilter("ignore")
for name in ("collectors", "engine", "playbooks", "tui", "opsuite"):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + ".", onerror=lambda name: None):
        if module.name.endswith("__main__") or ".inject" in module.name:
            continue  # these act when they are imported
        try:
            importlib.import_module(module.name)
            print("imported", module.name)
        except ModuleNotFoundError as error:
            print("lacks", error.name, module.name)
"""
EXTRAS = {"torch", "triton", "safetensors", "tokenizers", "fastapi", "starlette", "uvicorn"}
EXTRAS |= {"h11", "httpx", "jinja2", "msgspec", "opentelemetry"}


def test_every_module_imports_or_lacks_an_extra() -> None:
    """So the wheel holds them all, and its base requirements are complete."""
    told = subprocess.run(
        [sys.executable, "-P", "-c", IMPORT_ALL], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    lacking = [line.split() for line in told if line.startswith("lacks")]
    assert len(told) > 300
    assert [line for line in lacking if line[1].partition(".")[0] not in EXTRAS] == []
    assert [line for line in lacking if line[2].startswith("collectors")] == []
