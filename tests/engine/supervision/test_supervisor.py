"""Who wishes a job to stop is heard, whatever its driver is doing just then."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from collectors.stop_request import StopRequest
from engine.supervision import supervisor
from engine.supervision.job_spec import DRIVER
from engine.supervision.supervisor import Member, Supervisor

if TYPE_CHECKING:
    from pathlib import Path

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
# The first dies of the wish; the second, a moment later, obeys it.
SECOND = """
import pathlib, signal, sys, time
run = pathlib.Path(sys.argv[1])
if (run / "first").exists():
    def obey(*_):
        (run / "driver" / "result.json").write_text('{"status": "stopped", "reason": "asked"}')
        sys.exit()
    signal.signal(signal.SIGTERM, obey)
(run / "first").touch()
time.sleep(60)
"""


class Scripted(Supervisor):
    """Its driver runs a script."""

    script = ""

    def _command(self, member: Member, module: str) -> list[str]:
        return [sys.executable, "-c", self.script, str(self.run)]


@pytest.mark.parametrize(
    ("script", "reason"), [(SECOND, "asked"), (DEAF, "its driver did not obey, and was ended")]
)
def test_the_wish_is_told_until_it_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    monkeypatch.setattr(supervisor, "_AGAIN_S", 0.3)
    monkeypatch.setattr(supervisor, "_OBEY_S", 4.0)
    (tmp_path / DRIVER).mkdir()
    job = Scripted(run=tmp_path, driver=Member(name="driver"), executors=())
    job.script = script
    stop = StopRequest()
    job.start()
    try:
        while script is SECOND and not (tmp_path / "first").exists():
            pass
        stop.make()
        assert job.wait(stop) == {"status": "stopped", "reason": reason}
    finally:
        job.close()
    assert job.pid("driver") == 0
