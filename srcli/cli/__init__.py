"""The command line, one file per command: parses options, calls the library, prints results.

Results go to stdout, everything else to stderr. Exit codes: 0 success, 1 something failed, 2 invalid usage, 3 a limit of
compare-loss is missed, 130 interrupted. May import every other package.
"""

from __future__ import annotations

import sys

import typer

from srcli.cli import compare_loss, export, losses, models, train, upscale
from srcli.cli.messages import report
from srcli.errors import ConfigError, SrcliError
from srcli.version import __version__

app = typer.Typer(
    name="srcli",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("upscale")(upscale.upscale)
app.command("compare-loss")(compare_loss.compare_loss)
app.command("models")(models.models)
app.command("export")(export.export)
app.command("losses")(losses.losses)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"srcli {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version and exit."),
) -> None:
    """Train and apply image super-resolution models, and measure the results."""


def main(arguments: list[str] | None = None) -> None:
    """Run the program. Errors that the user can fix are printed as one sentence, all others with a traceback.

    arguments: of the command line; None for those of the process.
    """
    try:
        app(arguments)
    except SrcliError as error:
        report(str(error))
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        report("interrupted.")
        sys.exit(130)
