"""``opsuite profile``: how long a model's passes take on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from collectors.errors import StorageError, UsageError
from opsuite.output import narrate, print_data

if TYPE_CHECKING:
    from engine.profiles.profile import Profile
    from engine.serving.config import ServingConfig
    from opsuite.model_reference import ModelReference

_MOST_RANKS = 8
_WELL = 0.3  # an error that a quiet machine stays below


def profile(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model directory, run directory, run id or last.")
    ],
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the profile here.")
    ] = None,
    tp: Annotated[
        str,
        typer.Option(metavar="N,M,...", help="Processes that share each matrix: each of these."),
    ] = "1",
    instances: Annotated[
        int,
        typer.Option(min=1, max=64, help="Replicas that compute together: 1, 2, 4 ... and all."),
    ] = 1,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of one operation. [default: all cores]")
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, max=1000, help="Of which the median of each time counts.")
    ] = 5,
    max_len: Annotated[
        int | None,
        typer.Option(min=16, help="Tokens of a request. [default: the context, 4096 at most]"),
    ] = None,
    max_batch: Annotated[int, typer.Option(min=2, max=1024, help="Requests at once.")] = 16,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the profile itself instead of tables.")
    ] = False,
) -> None:
    """Measure prefills and decodes of a model, by the engine that serves it.

    The profile is for `opsuite serve --profile` and `opsuite simulate serve --costs`. A time ends
    when the chosen tokens are on the host. Let nothing else run on the machine.
    """
    from collectors.settings import Settings
    from opsuite.extras import require_engine
    from opsuite.model_reference import resolve_model

    ranks = _ranks(tp)
    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError(
            "there is no such directory", where=str(out.parent), remedy="make it, or correct --out"
        )
    require_engine()
    reference = resolve_model(Settings.from_environment().home, model)

    from engine.serving.config import ServingConfig
    from engine.serving.worker.profiling import longest_request, profile_model

    longest = longest_request(reference.directory, max_len)
    if instances > 1:
        found = _profile_fleet(
            reference,
            ServingConfig(
                device=device,
                tp=_one(ranks),
                instances=instances,
                policy="esp",
                threads=threads,
                max_batch=max_batch,
                max_len=longest,
                prefill_tokens=longest,
            ),
            rounds,
        )
        _tell(found, out, as_json=as_json)
        return
    configs = [
        ServingConfig(
            device=device,
            tp=each,
            threads=threads,
            max_batch=max_batch,
            max_len=longest,
            prefill_tokens=longest,
            swap_gb=0.0,
        )
        for each in ranks
    ]
    found = profile_model(
        reference.directory, configs, name=reference.name, rounds=rounds, told=narrate
    )
    _tell(found, out, as_json=as_json)


def _profile_fleet(reference: ModelReference, config: ServingConfig, rounds: int) -> Profile:
    from engine.serving.fleet.profiling import profile_fleet

    return profile_fleet(
        reference.directory, config, name=reference.name, rounds=rounds, told=narrate
    )


def _one(ranks: list[int]) -> int:
    if len(ranks) > 1:
        raise UsageError(
            "instances are of one --tp", where="--tp", remedy="give one number, or no --instances"
        )
    return ranks[0]


def _ranks(text: str) -> list[int]:
    try:
        ranks = list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        ranks = []
    if not ranks or not all(1 <= each <= _MOST_RANKS for each in ranks):
        raise UsageError(
            f"{text!r} is no list of numbers from 1 to {_MOST_RANKS}",
            where="--tp",
            remedy="such as 1,2",
        )
    return ranks


def _tell(found: Profile, out: Path | None, *, as_json: bool) -> None:
    from engine.profiles.profile import write_profile
    from opsuite.profile_tables import tables

    if out is not None:
        try:
            write_profile(found, out)
        except OSError as error:
            raise StorageError.from_os_error(error, f"writing {out}") from error
    if as_json:
        print_data(found.model_dump_json(indent=1))
    else:
        print_data(tables(found))
    for each in found.configurations:
        fit = each.fit()
        narrate(
            f"tp {each.op}, {each.sp} instance(s): the fit's largest errors are"
            f" {fit.prefill_error:.0%} of a prefill and {fit.decode_error:.0%} of a decode"
        )
        if max(fit.prefill_error, fit.decode_error) > _WELL:
            narrate("  that is much: let nothing else run here, or give more --rounds")
    narrate(f"written to {out}" if out else "not kept: --out FILE writes it")
