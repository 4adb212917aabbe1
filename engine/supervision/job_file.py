"""The file with which Slurm or Kubernetes starts a job's hosts; what runs there is one command."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.training.config import RunConfig

Kind = Literal["sbatch", "jobset"]


def job_file(kind: Kind, config: RunConfig, command: Sequence[str], *, standbys: int) -> str:
    """Its text.

    Args:
        command: what each host runs: ``opsuite launch ...``.
        standbys: hosts beyond those that train.
    """
    render = _sbatch if kind == "sbatch" else _jobset
    hosts = config.resilience.hosts + standbys
    ranks = config.ranks_per_host
    return render(config.name, hosts, ranks, config.parallel.threads_per_rank, list(command))


def _sbatch(name: str, hosts: int, ranks: int, threads: int, command: list[str]) -> str:
    return f"""\
#!/bin/bash
#SBATCH --job-name={shlex.quote(name)}
#SBATCH --nodes={hosts}
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task={ranks * threads}
#SBATCH --requeue
#SBATCH --open-mode=append
# With GPUs, also: #SBATCH --gpus-per-node={ranks}
# OPSUITE_HOME must lie on storage that all nodes see.

# One executor a node; the first runs the driver too. A node that fails must not end the others:
# the driver takes a standby in its place.
srun --kill-on-bad-exit=0 --no-kill {shlex.join(command)}
"""


def _jobset(name: str, hosts: int, ranks: int, threads: int, command: list[str]) -> str:
    label = "".join(each if each.isalnum() else "-" for each in name.lower()).strip("-") or "run"
    return f"""\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: {label}
spec:
  network:
    enableDNSHostnames: true
  failurePolicy:
    maxRestarts: 0          # the driver restarts ranks; a pod that fails is started again below
  replicatedJobs:
    - name: workers
      replicas: 1
      template:
        spec:
          parallelism: {hosts}
          completions: {hosts}
          completionMode: Indexed
          backoffLimitPerIndex: 100
          template:
            spec:
              restartPolicy: OnFailure
              containers:
                - name: executor
                  image: REPLACE-ME          # one with opsuite[engine]
                  command: {json.dumps(command)}
                  env:
                    - name: JOBSET_NAME
                      value: {label}
                    - name: OPSUITE_HOME
                      value: /shared/opsuite  # storage that all pods see
                    - name: POD_NAME
                      valueFrom:
                        fieldRef:
                          fieldPath: metadata.name
                  resources:
                    requests:
                      cpu: {ranks * threads}   # with GPUs, also limits: nvidia.com/gpu: {ranks}
                  volumeMounts:
                    - name: shared
                      mountPath: /shared
              volumes:
                - name: shared
                  persistentVolumeClaim:
                    claimName: REPLACE-ME
"""
