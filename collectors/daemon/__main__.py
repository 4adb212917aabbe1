"""``python -m collectors.daemon HOME``: a daemon in the background, which is how it is started."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def main() -> int:
    """Leave whoever started us, then collect."""
    parser = argparse.ArgumentParser(prog="collectors.daemon")
    parser.add_argument("home", type=Path)
    parser.add_argument("--report", type=int, required=True, help="pipe that learns how it went")
    parser.add_argument("--idle-s", type=float, default=60.0)
    parser.add_argument("--group", type=int)
    arguments = parser.parse_args()
    if os.fork():  # before anything has a thread
        os._exit(0)
    os.setsid()
    os.umask(0o077)
    return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    from collectors.daemon.process import run_daemon
    from collectors.daemon.service import DaemonOptions
    from collectors.errors import OpsuiteError
    from collectors.query.protocol import error_header
    from collectors.settings import Settings

    def report(document: Mapping[str, Any]) -> None:
        with suppress(OSError):  # whoever started us did not wait
            os.write(arguments.report, json.dumps(document).encode() + b"\n")
        os.close(arguments.report)

    options = DaemonOptions(
        idle_s=arguments.idle_s,
        group=arguments.group,
        runtime=Settings.from_environment().runtime,
    )
    try:
        return run_daemon(
            arguments.home,
            options,
            background=True,
            report=lambda pid, started: report({"pid": pid, "started": started}),
        )
    except OpsuiteError as error:
        report(error_header(error))
        sys.stderr.write(f"not started: {error}\n")  # the log: nobody may have waited for a report
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
