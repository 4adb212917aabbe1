"""How a model is served."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from collectors.configuration import Config
from collectors.errors import UsageError
from engine.elastic.registry import FLEET_POLICIES
from engine.scheduling.limits import MakeRoom
from engine.scheduling.registry import LIVE_POLICIES


def require_in_context(max_len: int | None, context: int) -> None:
    """UsageError: the model's context is shorter than ``max_len`` tokens."""
    if max_len is not None and max_len > context:
        raise UsageError(
            f"the model's context holds {context} tokens",
            where=f"--max-len {max_len}",
            remedy=f"give at most {context}",
        )


class ServingConfig(Config):
    """Where the server listens, and what its engine holds and decides."""

    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(
        default=8000, ge=0, le=65535, description="port to listen on; 0 takes a free one"
    )
    name: str | None = Field(default=None, min_length=1, description="what clients call the model")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where the model runs"
    )
    tp: int = Field(default=1, ge=1, le=8, description="processes that share each matrix")
    pp: int = Field(default=1, ge=1, le=64, description="stages, each with a part of the layers")
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="CPU threads of one operation"
    )
    instances: int = Field(
        default=1,
        ge=1,
        le=64,
        description="replicas of the model that compute together, elastically",
    )
    policy: str = Field(
        default="adaptive",
        description="in which order requests run, or which instances compute what",
    )
    order: str = Field(
        default="adaptive", description="in which order requests run on several instances"
    )
    profile: str | None = Field(
        default=None, min_length=1, description="file with measured times; None: measured at start"
    )
    max_batch: int = Field(default=16, ge=1, le=1024, description="requests that run at once")
    max_len: int | None = Field(
        default=None,
        ge=2,
        description="most tokens of prompt and completion; None: the model's context",
    )
    prefill_tokens: int = Field(
        default=512, ge=1, description="tokens of prompts that one iteration computes"
    )
    kv_tokens: int | None = Field(
        default=None, ge=1, description="tokens whose keys and values the device holds"
    )
    swap_gb: float = Field(
        default=4.0, ge=0, le=4096, description="host memory for preempted requests, in GB"
    )
    make_room: MakeRoom = Field(
        default=MakeRoom.PROACTIVE, description="how preempted requests give up their memory"
    )
    max_waiting: int = Field(
        default=256, ge=0, le=100_000, description="requests that wait at most"
    )
    patience_s: float = Field(
        default=300.0, gt=0, description="seconds until an engine that says nothing is replaced"
    )
    drain_s: float = Field(
        default=20.0, ge=0, description="seconds for running requests at shutdown"
    )

    @field_validator("policy", "order")
    @classmethod
    def _is_known(cls, name: str, info: ValidationInfo) -> str:
        fleets = FLEET_POLICIES if info.field_name == "policy" else ()
        if name not in (*LIVE_POLICIES, *fleets):
            raise ValueError(f"must be one of {', '.join((*LIVE_POLICIES, *fleets))}")
        return name

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if self.instances > 1 and not self.elastic:
            raise ValueError(
                f"of several instances the policy must be one of {', '.join(FLEET_POLICIES)};"
                f" {self.policy} may be their order"
            )
        if self.elastic and self.pp > 1:
            raise ValueError("instances have no pipeline: pp must be 1")
        return self

    @property
    def elastic(self) -> bool:
        """Whether a fleet of instances serves."""
        return self.policy in FLEET_POLICIES

    @property
    def ranks(self) -> int:
        """Processes that compute."""
        return self.tp * self.pp
