"""``opsuite serve`` as a process of its own: its announcement, then its orderly end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from collectors.errors import RunFailed, TimedOut

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SHUTDOWN_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """What a server says when it is ready.

    Attributes:
        model: what clients call it.
        run: the run that it records; None with recording off.
    """

    url: str
    model: str
    run: str | None


@contextmanager
def serving(
    model: str, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[Announcement]:
    """A server of a model on a free port, for the body's duration.

    Args:
        options: further ones of ``opsuite serve``.
        environment: variables that it has besides this process's.

    Raises:
        RunFailed: it did not start: why is on stderr.
        TimedOut: it did not stop, and was killed.
    """
    command = [sys.executable, "-P", "-m", "opsuite.cli.main", "serve", model]
    command += ["--port", "0", "--json", *options]
    given = {**os.environ, **(environment or {})}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=given) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            if not line:
                raise RunFailed("the server did not start", where=" ".join(command))
            yield Announcement(**json.loads(line))
        finally:
            server.terminate()
            try:
                server.wait(_SHUTDOWN_S)
            except subprocess.TimeoutExpired:
                server.kill()
                raise TimedOut(
                    f"the server did not stop within {_SHUTDOWN_S:.0f} s", where=" ".join(command)
                ) from None
