"""A profile for people: what was measured, and how well the fitted terms say it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tui.table import render_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.profiles.profile import Configuration, Profile

_SAMPLES = (
    *("tp", "instances", "pass", "sequences", "tokens"),
    *("measured_ms", "fitted_ms", "error_pct"),
)
_FITS = (
    *("tp", "instances", "prefill_error_pct", "decode_error_pct"),
    *("prefill_of_512_ms", "decode_of_1_ms", "weights_mb"),
)
_MS = 1e3
_PERCENT = 100

_Line = tuple[int, int, str, int, int, float, float, float]


def tables(profile: Profile) -> str:
    """Each sample beside the fit, then the largest relative errors of each configuration."""
    lines = [line for each in profile.configurations for line in _samples(each)]
    fits = render_table(_FITS, [_fit(each) for each in profile.configurations])
    return f"{render_table(_SAMPLES, lines)}\n{fits}"


def _samples(configuration: Configuration) -> Iterator[_Line]:
    latency, ways = configuration.fit().latency, (configuration.op, configuration.sp)
    for prefill in configuration.prefill:
        lengths = prefill.lengths
        fitted_s = latency.iteration_s([(length, 0) for length in lengths], 0, 0)
        yield *ways, "prefill", len(lengths), sum(lengths), *_compared(prefill.seconds, fitted_s)
    for decode in configuration.decode:
        batch, context = decode.batch, decode.context_tokens
        fitted_s = latency.decode_s(batch, context)
        yield *ways, "decode", batch, context, *_compared(decode.seconds, fitted_s)


def _compared(measured_s: float, fitted_s: float) -> tuple[float, float, float]:
    """Milliseconds of both, and the error in per cent."""
    error = round(_PERCENT * (fitted_s / measured_s - 1))
    return _short(measured_s * _MS), _short(fitted_s * _MS), error


def _fit(configuration: Configuration) -> tuple[int, int, float, float, float, float, float]:
    fit = configuration.fit()
    return (
        configuration.op,
        configuration.sp,
        round(_PERCENT * fit.prefill_error, 1),
        round(_PERCENT * fit.decode_error, 1),
        _short(fit.latency.prefill_s(512) * _MS),
        _short(fit.latency.decode_s(1, 512) * _MS),
        round(configuration.weight_bytes[0] / 1e6, 1),
    )


def _short(figure: float) -> float:
    """To four significant digits: a time is no surer."""
    return float(f"{figure:.4g}")
