"""The one profile format: how long a model's passes take on some devices, and what it weighs.

A versioned JSON, written by ``opsuite profile`` or by hand, read by the scheduler, the planner and
the simulators. Times are seconds, sizes bytes, of one pass through the whole model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from collectors.errors import DataError, UsageError
from engine.profiles.latency_fit import Fit, fit_latency

if TYPE_CHECKING:
    from pathlib import Path

FORMAT: Literal["opsuite-profile"] = "opsuite-profile"

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Tokens = Annotated[int, Field(ge=1)]
Bytes = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Sample(_Part):
    """One measured pass.

    Attributes:
        stage_seconds: of each pipeline stage; () where not told apart.
    """

    seconds: Seconds
    stage_seconds: tuple[Seconds, ...] = ()


class PrefillSample(Sample):
    """One prefill of a batch.

    Attributes:
        lengths: tokens of each sequence.
    """

    lengths: Annotated[tuple[Tokens, ...], Field(min_length=1)]


class DecodeSample(Sample):
    """One decode of a batch.

    Attributes:
        context_tokens: of all sequences together.
    """

    batch: Tokens
    context_tokens: Annotated[int, Field(ge=0)]


class Configuration(_Part):
    """One way to spread the model.

    Attributes:
        op: devices that share each operator (tensor parallel).
        pp: pipeline stages.
        sp: instances that share each sequence (sequence parallel).
        weight_bytes, activation_bytes: on one device of each stage.
    """

    op: Tokens = 1
    pp: Tokens = 1
    sp: Tokens = 1
    weight_bytes: tuple[Bytes, ...]
    activation_bytes: tuple[Bytes, ...] = ()
    prefill: tuple[PrefillSample, ...] = ()
    decode: tuple[DecodeSample, ...] = ()

    @model_validator(mode="after")
    def _stages(self) -> Self:
        for name in ("weight_bytes", "activation_bytes"):
            given = getattr(self, name)
            if len(given) != self.pp and (given or name == "weight_bytes"):
                raise ValueError(f"{name} has {len(given)} values for {self.pp} stages")
        samples: tuple[Sample, ...] = (*self.prefill, *self.decode)
        for sample in samples:
            if sample.stage_seconds and len(sample.stage_seconds) != self.pp:
                raise ValueError(f"stage_seconds has not {self.pp} values")
        return self

    @property
    def name(self) -> str:
        """For people."""
        return f"op={self.op} pp={self.pp} sp={self.sp}"

    def fit(self) -> Fit:
        """Its latency, by relative least squares.

        Raises:
            DataError: it has fewer than three prefills or decodes.
        """
        for what, samples in (("prefill", self.prefill), ("decode", self.decode)):
            if len(samples) < 3:
                raise DataError(
                    f"{len(samples)} {what} samples do not determine three terms",
                    where=self.name,
                    remedy="measure more lengths and batches: opsuite profile MODEL",
                )
        return fit_latency(
            [(sample.lengths, sample.seconds) for sample in self.prefill],
            [(each.batch, each.context_tokens, each.seconds) for each in self.decode],
        )


class Profile(_Part):
    """Of one model on one kind of device.

    Attributes:
        device: for people, such as "NVIDIA H200" or "AMD EPYC, 1 thread".
        origin: whether the times were measured, with device synchronisation, or estimated.
        kv_bytes_per_token: keys and values of one token, over all layers and devices.
    """

    format: Literal["opsuite-profile"] = FORMAT
    version: Literal[1] = 1
    model: Annotated[str, Field(min_length=1)]
    device: Annotated[str, Field(min_length=1)]
    origin: Literal["measured", "estimated"]
    note: str = ""
    kv_bytes_per_token: Tokens
    configurations: Annotated[tuple[Configuration, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _once(self) -> Self:
        names = [each.name for each in self.configurations]
        if len(set(names)) < len(names):
            raise ValueError("a configuration is there twice")
        return self

    def find(self, *, op: int = 1, pp: int = 1, sp: int = 1) -> Configuration:
        """The configuration.

        Raises:
            UsageError: it was not profiled; says which were.
        """
        for each in self.configurations:
            if (each.op, each.pp, each.sp) == (op, pp, sp):
                return each
        raise UsageError(
            f"the profile of {self.model} has no op={op} pp={pp} sp={sp}",
            remedy=f"use {', or '.join(each.name for each in self.configurations)}",
        )


def read_profile(path: Path) -> Profile:
    """Of a file.

    Raises:
        UsageError: it cannot be read.
        DataError: it is no such profile; names the first wrong value.
    """
    try:
        return Profile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"the profile cannot be read: {error.strerror}",
            where=str(path),
            remedy="check the path, or make one: opsuite profile MODEL",
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(
            f"{place}: {first['msg']}", where=str(path), remedy="correct the value"
        ) from error


def write_profile(profile: Profile, path: Path) -> None:
    """As JSON that people can read."""
    path.write_text(profile.model_dump_json(indent=1) + "\n", encoding="utf-8")
