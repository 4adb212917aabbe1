"""What Python runs at its start in every process below ``opsuite run``.

It is found through PYTHONPATH, needs the standard library alone, and leaves the process as it was:
the output of ranks goes into their logs, and ``import torch`` arms opsuite's watching afterwards.
Nothing that fails here may reach the program.
"""

from __future__ import annotations

import io
import os
import sys

TYPE_CHECKING = False  # typing takes milliseconds, in every process
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib costs 10 ms
_STREAMS = "OPSUITE_STREAMS"
_OLD_NAMES = {  # of the flight recorder's settings, before torch 2.8
    "TORCH_FR_BUFFER_SIZE": "TORCH_NCCL_TRACE_BUFFER_SIZE",
    "TORCH_FR_DUMP_TEMP_FILE": "TORCH_NCCL_DEBUG_INFO_TEMP_FILE",
}


def _tell(error: BaseException) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"opsuite: this process is not watched: {error!r}\n")


def _capture() -> None:
    """Where the launcher has said which rank this process is, capture it from its beginning."""
    rank = os.environ.get("RANK", "")
    # Clusters may set RANK for a launcher of ranks, but not LOCAL_RANK.
    if rank.isascii() and rank.isdigit() and "LOCAL_RANK" in os.environ:
        _write_into_log(int(rank))


def _capture_late(rank: int) -> None:
    """A rank of mp.spawn or mpirun knows its number when it has met the others."""
    try:
        _write_into_log(rank)
    except Exception as error:  # noqa: BLE001 - the program goes on, and prints as before
        _tell(error)


def _write_into_log(rank: int) -> None:
    """Write what a rank prints into its log, unless somebody else has redirected it already."""
    known = os.environ.get(_STREAMS, "").split(",")
    taken = [number for number in (1, 2) if known != [""] and _identity(number) in known]
    if not taken:
        return
    logs = os.path.join(  # noqa: PTH118
        os.environ["OPSUITE_HOME"], "runs", os.environ["OPSUITE_RUN"], "logs"
    )
    os.makedirs(logs, mode=0o700, exist_ok=True)  # noqa: PTH103
    path = os.path.join(logs, f"rank{rank}.log")  # noqa: PTH118
    streams = [stream for stream in (sys.stdout, sys.stderr) if stream is not None]
    for stream in streams:
        stream.flush()
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    for number in taken:
        os.dup2(log, number)
    os.close(log)
    for stream in streams:
        # The user may have put a stream of another kind there.
        if isinstance(stream, io.TextIOWrapper) and not stream.write_through:
            stream.reconfigure(line_buffering=True)


def _identity(descriptor: int) -> str:
    try:
        found = os.fstat(descriptor)
    except OSError:  # closed
        return ""
    return f"{found.st_dev}:{found.st_ino}"


class _AfterTorch:
    """Finds torch as the others do, and has ``arm`` called when it is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torch":
            return None
        spec = _find(name, path, target, without=self)
        if spec is not None:
            self._follow(spec.loader)
        return spec

    def _follow(self, loader: Any) -> None:  # noqa: ANN401 - anybody's
        run = getattr(loader, "exec_module", None)
        if run is None:
            return

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module
            run(module)
            self._remove()
            _after_torch(module)

        try:
            loader.exec_module = exec_module
        except AttributeError:  # it takes nothing
            return

    def _remove(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)


def _find(
    name: str, path: Sequence[str] | None, target: ModuleType | None, *, without: object
) -> ModuleSpec | None:
    for finder in list(sys.meta_path):
        find = getattr(finder, "find_spec", None)
        if finder is not without and find is not None:
            spec: ModuleSpec | None = find(name, path, target)
            if spec is not None:
                return spec
    return None


def _after_torch(torch: ModuleType) -> None:
    try:
        _translate(getattr(torch, "__version__", ""))
        _arm()
    except Exception as error:  # noqa: BLE001 - the program goes on without us
        _tell(error)


def _translate(version: str) -> None:
    release = [int(part) for part in version.split(".")[:2] if part.isdigit()]
    if release < [2, 8]:
        for name, old in _OLD_NAMES.items():
            if name in os.environ:
                os.environ.setdefault(old, os.environ[name])


def _arm() -> None:
    """By the opsuite beside this file, which need not be installed for this interpreter."""
    if "opsuite" not in sys.modules:
        from importlib.util import module_from_spec, spec_from_file_location

        package = os.path.dirname(os.path.dirname(_HERE))  # noqa: PTH120
        spec = spec_from_file_location(
            "opsuite",
            os.path.join(package, "__init__.py"),  # noqa: PTH118
            submodule_search_locations=[package],
        )
        if spec is None or spec.loader is None:
            raise ImportError(f"no opsuite in {package}")
        module = module_from_spec(spec)
        sys.modules["opsuite"] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules["opsuite"]
            raise
    from opsuite.watching import arm

    arm(_capture_late)


def _begin() -> None:
    try:
        _capture()
        sys.meta_path.insert(0, _AfterTorch())
    except Exception as error:  # noqa: BLE001 - the program goes on without us
        _tell(error)


def _give_way() -> None:
    """Run the sitecustomize that would have been found without us; its errors are its own."""
    sys.path[:] = [path for path in sys.path if path != _HERE]
    ours = sys.modules.pop(__name__)
    spec = _find(__name__, None, None, without=None)
    if spec is None or spec.loader is None or spec.origin == __file__:
        sys.modules[__name__] = ours
        return
    from importlib.util import module_from_spec

    theirs = module_from_spec(spec)
    sys.modules[__name__] = theirs
    spec.loader.exec_module(theirs)


if os.environ.get("OPSUITE_RUN"):
    _begin()
if __name__ == "sitecustomize":
    _give_way()
