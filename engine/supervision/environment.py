"""Which host of which job this process is, as Slurm or Kubernetes tell it."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from collectors.clock import host_name
from collectors.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_RANGE = re.compile(r"^([^\[,]+)(?:\[(\d+)[^\]]*\])?")
_SOME_PORT = 9  # nothing is sent there: it is asked which way one would go


@dataclass(frozen=True, kw_only=True)
class HostOfJob:
    """A host among those that were started for a job.

    Attributes:
        job: what all of them call the job.
        index: of this one; 0 launches, the others join.
        name: of this one.
        first: name of the host with index 0.
    """

    job: str
    index: int
    name: str
    first: str

    @property
    def address(self) -> str:
        """By which the others reach this host: that of the interface towards the first.

        Raises:
            UsageError: the first host's name means nothing here.
        """
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((self.first, _SOME_PORT))
            except OSError as error:
                raise UsageError(
                    f"the first host cannot be found: {error}",
                    where=self.first,
                    remedy="check that its name resolves here",
                ) from error
            own: str = probe.getsockname()[0]
        if own.startswith("127.") and self.index == 0:
            own = socket.gethostbyname(host_name())
        return own


def host_of_job(environ: Mapping[str, str] = os.environ) -> HostOfJob | None:
    """From srun's variables, or an indexed Kubernetes job's; None: neither started this process.

    Raises:
        UsageError: some variables are there, and others are not.
    """
    if "SLURM_PROCID" in environ and environ.get("SLURM_STEP_ID", "") != "":
        return _of_slurm(environ)
    if "JOB_COMPLETION_INDEX" in environ:
        return _of_pod(environ)
    return None


def _of_slurm(environ: Mapping[str, str]) -> HostOfJob:
    found = _RANGE.match(_need(environ, "SLURM_STEP_NODELIST"))
    assert found is not None, "a list of nodes begins with a name"
    first = found[1] + (found[2] or "")
    return HostOfJob(
        job=f"slurm-{_need(environ, 'SLURM_JOB_ID')}",
        index=_number(environ, "SLURM_PROCID"),
        name=environ.get("SLURMD_NODENAME") or host_name(),
        first=first,
    )


def _of_pod(environ: Mapping[str, str]) -> HostOfJob:
    """JobSet gives pods the names JOBSET-JOB-0-INDEX under a service of the JobSet's name."""
    jobset = _need(environ, "JOBSET_NAME")
    job = environ.get("REPLICATED_JOB_NAME", "workers")
    return HostOfJob(
        job=f"pods-{jobset}",
        index=_number(environ, "JOB_COMPLETION_INDEX"),
        name=environ.get("POD_NAME") or host_name(),
        first=f"{jobset}-{job}-0-0.{jobset}",
    )


def _need(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name)
    if not value:
        raise UsageError(
            f"{name} is not set",
            where="the environment",
            remedy="start with `opsuite launch --print sbatch` or `--print jobset`",
        )
    return value


def _number(environ: Mapping[str, str], name: str) -> int:
    value = _need(environ, name)
    if not value.isdecimal():
        raise UsageError(f"{name}={value} is no number", where="the environment")
    return int(value)
