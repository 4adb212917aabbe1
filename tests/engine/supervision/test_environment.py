"""Hosts of a job find their place in what Slurm and Kubernetes tell them."""

from __future__ import annotations

import pytest

from collectors.errors import UsageError
from engine.supervision.environment import host_of_job
from engine.supervision.job_file import job_file
from engine.training.config import RunConfig

SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "2",
    "SLURM_STEP_NODELIST": "gpu[017-019,023]",
    "SLURMD_NODENAME": "gpu019",
}
POD = {"JOB_COMPLETION_INDEX": "0", "JOBSET_NAME": "llama", "POD_NAME": "llama-workers-0-0-x"}


def test_srun_and_pods_tell() -> None:
    host = host_of_job(SRUN)
    assert host is not None
    assert (host.job, host.index, host.name, host.first) == ("slurm-4711", 2, "gpu019", "gpu017")
    one = host_of_job({**SRUN, "SLURM_STEP_NODELIST": "gpu7", "SLURM_PROCID": "0"})
    assert one is not None and one.first == "gpu7"
    pod = host_of_job(POD)
    assert pod is not None
    assert (pod.job, pod.index, pod.first) == ("pods-llama", 0, "llama-workers-0-0.llama")
    assert host_of_job({}) is None
    assert host_of_job({"SLURM_JOB_ID": "4711", "SLURM_PROCID": "0"}) is None  # sbatch, not srun


@pytest.mark.parametrize("missing", ["SLURM_JOB_ID", "SLURM_STEP_NODELIST"])
def test_half_of_it_is_an_error(missing: str) -> None:
    with pytest.raises(UsageError, match=missing):
        host_of_job({k: v for k, v in SRUN.items() if k != missing})


def test_job_files_start_one_executor_a_host() -> None:
    config = RunConfig.model_validate(
        {
            "name": "My.Run",
            "parallel": {"dp": 4, "tp": 2},
            "resilience": {"recover": True, "hosts": 2},
        }
    )
    command = ["opsuite", "launch", "a run.toml"]
    sbatch = job_file("sbatch", config, command, standbys=1)
    assert "#SBATCH --nodes=3" in sbatch
    assert "--cpus-per-task=4" in sbatch
    assert "srun --kill-on-bad-exit=0 --no-kill opsuite launch 'a run.toml'" in sbatch
    jobset = job_file("jobset", config, command, standbys=0)
    assert "completions: 2" in jobset
    assert 'command: ["opsuite", "launch", "a run.toml"]' in jobset
    assert "name: my-run" in jobset
