"""What an iteration costs and a token weighs: read from a profile of ours, or in DistServe's form.

DistServe's JSON has, for each model and each tensor parallelism, terms in milliseconds; see
:mod:`engine.profiles.latency`. It does not say how many bytes a token's keys and values are: these
follow from the shapes of the OPT models, which it measures.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from collectors.errors import DataError, UsageError
from engine.profiles.latency import Latency, latency_of
from engine.profiles.profile import FORMAT, read_profile

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_FP16 = 2
# layers, hidden size (arXiv 2205.01068, table 1): keys and values of a token are as wide
_OPT = {"opt-13b": (40, 5120), "opt-66b": (64, 9216), "opt-175b": (96, 12288)}
_Term = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class ServingCosts:
    """Of one model on one engine.

    Attributes:
        tp: devices of the engine.
        kv_bytes_per_token: on all of them; None where the file does not say.
        source: for people.
    """

    model: str
    tp: int
    latency: Latency
    kv_bytes_per_token: int | None
    source: str

    def prefill_s(self, tokens: int, cached: int = 0) -> float:
        """As :meth:`engine.profiles.latency.Latency.prefill_s`."""
        return self.latency.prefill_s(tokens, cached)

    def decode_s(self, batch: int, context_tokens: int) -> float:
        """As :meth:`engine.profiles.latency.Latency.decode_s`."""
        return self.latency.decode_s(batch, context_tokens)


class _Measured(BaseModel):
    model_config = ConfigDict(extra="forbid")

    decoding_large_small_bs_threshold: Annotated[int, Field(ge=1)]
    prefill: tuple[_Term, _Term, _Term]
    decoding_smallbs: tuple[_Term, _Term, _Term]
    decoding_largebs: tuple[_Term, _Term, _Term]

    def latency(self) -> Latency:
        return latency_of(
            _seconds(self.prefill),
            _seconds(self.decoding_smallbs),
            _seconds(self.decoding_largebs),
            self.decoding_large_small_bs_threshold,
        )


_DISTSERVE = TypeAdapter(
    Annotated[dict[str, Annotated[dict[int, _Measured], Field(min_length=1)]], Field(min_length=1)]
)


def read_serving_costs(path: Path, model: str | None = None, tp: int | None = None) -> ServingCosts:
    """Of a file; its first model and that one's lowest tensor parallelism unless told.

    Raises:
        UsageError: the file cannot be read, or has no such model or tp: says which it has.
        DataError: its content cannot be used: says where.
    """
    try:
        given = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"the costs cannot be read: {error.strerror}",
            where=str(path),
            remedy="name a profile, or a JSON of DistServe's form; see docs/simulation.md",
        ) from error
    except ValueError as error:
        raise DataError(f"it is not JSON: {error}", where=str(path), remedy="mend it") from error
    if isinstance(given, dict) and given.get("format") == FORMAT:
        return _of_profile(path, model, tp)
    return _of_distserve(path, given, model, tp)


def _of_profile(path: Path, model: str | None, tp: int | None) -> ServingCosts:
    profile = read_profile(path)
    _choose(path, "model", [profile.model], model)
    plain = [each.op for each in profile.configurations if each.pp == each.sp == 1]
    chosen = _choose(path, "tp", sorted(plain), tp)
    fit = profile.find(op=chosen).fit()
    return ServingCosts(
        model=profile.model,
        tp=chosen,
        latency=fit.latency,
        kv_bytes_per_token=profile.kv_bytes_per_token,
        source=f"{path.name}: {profile.origin} on {profile.device}; at most"
        f" {fit.prefill_error:.1%} (prefill) and {fit.decode_error:.1%} (decode) off its samples",
    )


def _of_distserve(path: Path, given: Any, model: str | None, tp: int | None) -> ServingCosts:  # noqa: ANN401 - any JSON
    try:
        measured = _DISTSERVE.validate_python(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(
            f"{place}: {first['msg']}",
            where=str(path),
            remedy="give a profile, or DistServe's form; docs/simulation.md has both",
        ) from error
    name = _choose(path, "model", list(measured), model)
    chosen = _choose(path, "tp", sorted(measured[name]), tp)
    return ServingCosts(
        model=name,
        tp=chosen,
        latency=measured[name][chosen].latency(),
        kv_bytes_per_token=_kv_bytes(name),
        source=path.name,
    )


def _choose(path: Path, what: str, known: list[Any], wanted: Any) -> Any:  # noqa: ANN401 - names or numbers
    """The wanted one, else the first; a model's name may leave out the part before the slash."""
    if not known:
        raise DataError(f"it has no {what} for one plain engine", where=str(path))
    if wanted is None:
        return known[0]
    for each in known:
        if wanted == each or str(each).rpartition("/")[2] == wanted:
            return each
    close = difflib.get_close_matches(str(wanted), [str(each) for each in known], 1)
    raise UsageError(
        f"it has no {what} {wanted}",
        where=f"--{what}, {path}",
        remedy=f"use {close[0] if close and what == 'model' else _any(known)}",
    )


def _any(names: Iterable[object]) -> str:
    return " or ".join(str(name) for name in names)


def _kv_bytes(model: str) -> int | None:
    shape = _OPT.get(model.rpartition("/")[2].lower())
    return None if shape is None else 2 * shape[0] * shape[1] * _FP16


def _seconds(ms: tuple[float, float, float]) -> tuple[float, float, float]:
    return (ms[0] / 1e3, ms[1] / 1e3, ms[2] / 1e3)
