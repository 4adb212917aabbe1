"""How a job survives: what counts as a fault, and what is done about it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from collectors.configuration import Config


class ResilienceConfig(Config):
    """Training that keeps running: on how many hosts, what counts as a fault, and what then."""

    recover: bool = Field(False, description="start again after faults, from the newest good state")
    hosts: int = Field(1, ge=1, le=100_000, description="hosts that train; others stand by")
    snapshot_every: int = Field(
        10, ge=0, description="steps between states kept in memory, at a peer too; 0: none"
    )
    beat_s: float = Field(0.5, gt=0, le=60, description="between heartbeats of an executor")
    lost_after_s: float = Field(5.0, gt=0, description="without a heartbeat, a host is lost")
    reconnect_s: float = Field(
        1.0, ge=0, description="an executor whose connection ended may come back within this"
    )
    overdue_factor: float = Field(
        8.0, ge=2, description="a step may take so many times the usual one"
    )
    overdue_least_s: float = Field(6.0, gt=0, description="and at least this long")
    start_s: float = Field(300.0, gt=0, description="from the order to start to the first step")
    stop_s: float = Field(8.0, gt=0, description="from the order to stop to the last rank's end")
    gather_s: float = Field(600.0, gt=0, description="for enough hosts to be there")
    adopt_s: float = Field(5.0, gt=0, description="for executors to find a new driver")
    orphan_s: float = Field(
        120.0, gt=0, description="an executor without a driver for so long ends its ranks"
    )
    check: Literal["never", "suspects", "always"] = Field(
        "suspects", description="which hosts are examined before ranks start again"
    )
    check_s: float = Field(300.0, gt=0, description="that an examination may take")
    block_s: float = Field(600.0, gt=0, description="that a bad host is left out, at first")
    accused_most: int = Field(
        3, ge=1, description="faults of one host within an hour, after which it is left out"
    )
    loop_after: int = Field(
        3, ge=2, description="faults of one kind without progress that end the job"
    )
    spike_factor: float = Field(
        1e4, gt=1, description="a gradient so many times the usual one is a corrupted one"
    )
    keywords: list[str] = Field(
        default_factory=lambda: ["uncorrectable", "Xid", "CUDA error", "NCCL WARN", "I/O error"],
        description="log lines with one of these raise an alert",
    )
    hook: list[str] = Field(
        default_factory=list,
        description="command of the site, called with: drain|cordon HOST REASON",
    )
