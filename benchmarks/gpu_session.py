"""All that one short session on a GPU can show, in one call: ``gpu_session.py OUT [--dry-run]``.

Training in bfloat16, and its share of the peak; decodes as graphs, and swapping; kernels on random
shapes against float64; attention of elastic instances; kernels that wait for a peer which never
comes; the compiler's report; our product against cuBLAS; and operators over an emulated link: this
process is rank 0, all other ranks are buffers in pinned host memory, and the copy engine carries
their shards. Everything goes into OUT/gpu-session.json, part by part. It needs torch, triton and
this repository, and for training and serving pydantic, msgspec and psutil. ``--dry-run`` goes the
same way with small sizes in Triton's interpreter.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if "--dry-run" in sys.argv:
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

import torch

from benchmarks.gpu.checks import check_kernels, check_lost_peer
from benchmarks.gpu.elastic import check_elastic, time_elastic
from benchmarks.gpu.link import time_link
from benchmarks.gpu.products import time_products
from benchmarks.gpu.session import Session, facts

if TYPE_CHECKING:
    from collections.abc import Callable


def report_compiler(session: Session) -> dict[str, Any]:
    """As ``python -m engine.overlap.ahead_of_time``, with the compiler that is here."""
    if session.dry:
        return {}
    module = [sys.executable, "-m", "engine.overlap.ahead_of_time"]
    told = subprocess.run(
        module, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    return {"exit_code": told.returncode, "lines": (told.stdout + told.stderr[-2000:]).splitlines()}


def time_training(session: Session) -> list[dict[str, Any]]:
    """Imported only now: a bare GPU machine may lack pydantic, and does all other parts."""
    from benchmarks.gpu import training

    return training.time_training(session)


def time_serving(session: Session) -> list[dict[str, Any]]:
    """Imported only now, for the same reason."""
    from benchmarks.gpu import serving

    return serving.time_serving(session)


PARTS: dict[str, Callable[[Session], Any]] = {
    "begun": facts,
    "correctness": check_kernels,
    "elastic_correctness": check_elastic,
    "training": time_training,
    "serving": time_serving,
    "elastic": time_elastic,
    "products": time_products,
    "link": time_link,
    "clocks_after": facts,
    "ahead_of_time": report_compiler,
    "lost_peer": check_lost_peer,  # last: should it hang, the rest is written
}


def main() -> int:
    """Do all parts; one that fails is told, and the others follow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--budget-s", type=float, default=540.0)
    arguments = parser.parse_args()
    if not (arguments.dry_run or torch.cuda.is_available()):
        parser.error("there is no GPU that torch can use; --dry-run needs none")
    session = Session(
        device=torch.device("cpu" if arguments.dry_run else "cuda"),
        dry=arguments.dry_run,
        ends_s=time.monotonic() + arguments.budget_s,
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = {}
    failed = False
    for name, part in PARTS.items():
        begun = time.monotonic()
        try:
            told[name] = part(session)
        except Exception:  # noqa: BLE001 - the session is short: the other parts are wanted still
            failed = True
            told[name] = {"failed": traceback.format_exc()}
        print(
            f"{name}: {time.monotonic() - begun:.1f} s {json.dumps(told[name])[:1500]}", flush=True
        )
        (arguments.out / "gpu-session.json").write_text(
            json.dumps(told, indent=1), encoding="utf-8"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
