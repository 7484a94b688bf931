"""The command line: options in, one call, words out. One file a command.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 something failed, 2 wrong usage, 130 interrupted.
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


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"srcli {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version and leave."),
) -> None:
    """Train and apply image super-resolution, and measure what it does."""


def main(words: list[str] | None = None) -> None:
    """The program: every error that the user can mend leaves as one sentence, every other with its traceback.

    words: the command line; None takes the process's own.
    """
    try:
        app(words)
    except SrcliError as error:
        report(str(error))
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        report("interrupted.")
        sys.exit(130)
