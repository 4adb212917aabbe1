"""The ``opsuite`` command: every subcommand, and what happens to an error."""

from __future__ import annotations

import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from collectors.errors import OpsuiteError
from collectors.settings import Settings
from opsuite import __version__
from opsuite.cli import (
    alerts,
    attach,
    bench,
    chat,
    check,
    collect,
    control,
    demo,
    diagnose,
    doctor,
    drill,
    export,
    launch,
    profile,
    query,
    run,
    runs,
    serve,
    simulate,
    watch,
)
from opsuite.cli.exit_codes import ExitCode
from opsuite.output import hush, narrate, print_data

# Typer brings click or, since 0.20, a copy of its own: its errors are known by their family only.
_ClickError: type[Exception] = next(
    family for family in typer.BadParameter.__mro__ if family.__name__ == "ClickException"
)


class Commands(TyperGroup):
    """Turns errors into one message and the right exit code."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer carries its own copy of click
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, _ClickError):
            raise
        except KeyboardInterrupt:
            narrate("interrupted")
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:
            hush()  # the reader of our output went away: nothing is left to say
            raise typer.Exit(ExitCode.FINE) from None
        except OpsuiteError as error:
            _explain(ctx, error, f"error: {error}")
            raise typer.Exit(error.exit_code) from None
        except Exception as error:  # noqa: BLE001 - the last handler: a bug is reported, exit code 1
            text = f"internal error: {type(error).__name__}: {error}"
            _explain(ctx, error, f"{text}\n  do:    run again with `opsuite --debug` and report it")
            raise typer.Exit(ExitCode.FINDINGS_OR_FAILED) from None


def _explain(ctx: Any, error: BaseException, text: str) -> None:  # noqa: ANN401
    if ctx.params.get("debug") or _debug_in_environment():
        narrate("".join(traceback.format_exception(error)))
    narrate(text)


def _debug_in_environment() -> bool:
    try:
        return Settings.from_environment().debug
    except OpsuiteError:  # then the environment is the error that is being explained
        return False


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        print_data(f"opsuite {__version__}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option(help="Show tracebacks with errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say which.")
    ] = False,
) -> None:
    """One terminal for large-model runs: launch, serve, watch, and find out why."""


for _command in (
    demo.demo,
    launch.launch,
    run.run,
    attach.attach,
    watch.watch,
    diagnose.diagnose,
    serve.serve,
    chat.chat,
    profile.profile,
    query.query,
    doctor.doctor,
    check.check,
    drill.drill,
    control.evict,
    control.pause,
    control.resume,
    control.stop,
    control.restart,
    bench.bench,
):
    app.command()(_command)
app.add_typer(runs.runs, name="runs")
app.add_typer(alerts.alerts, name="alerts")
app.add_typer(collect.collect, name="collect")
app.add_typer(export.export, name="export")
app.add_typer(simulate.simulate, name="simulate")


def main() -> None:
    """Entry point of the ``opsuite`` console script."""
    app()


if __name__ == "__main__":
    main()
