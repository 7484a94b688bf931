"""The command line, one file per command: parses options, calls the library, prints results.

Results go to stdout, everything else to stderr. Exit codes: 0 success, 1 something failed, 2 invalid usage, 3 a limit of
compare-loss is missed, 130 interrupted. May import every other package.
"""

from __future__ import annotations

import codecs
import os
import sys
from typing import Annotated

import typer

from srcli.cli import compare_loss, export, losses, models, train, upscale
from srcli.cli.help import Group, add_command
from srcli.cli.messages import Verbosity, logger, report, set_verbosity
from srcli.cli.options import on_verbose
from srcli.errors import ConfigError, SrcliError, unexpected
from srcli.version import __version__

app = typer.Typer(
    name="srcli",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
add_command(app, "upscale", upscale.upscale, examples=upscale.EXAMPLES)
add_command(app, "train", train.train, examples=train.EXAMPLES)
add_command(app, "compare-loss", compare_loss.compare_loss, examples=compare_loss.EXAMPLES)
add_command(app, "models", models.models, examples=models.EXAMPLES)
add_command(app, "export", export.export, examples=export.EXAMPLES)
add_command(app, "losses", losses.losses, examples=losses.EXAMPLES)


def _version(requested: bool) -> None:
    if requested:
        print(f"srcli {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version and exit."),
    verbose: Annotated[bool, typer.Option("--verbose", "--debug", hidden=True, callback=on_verbose)] = False,
) -> None:
    """Train and apply image super-resolution models, and measure the results."""


def main(arguments: list[str] | None = None) -> None:
    """Run the program. Errors are printed as one sentence; --verbose adds the traceback of those that the user cannot fix.

    arguments: of the command line; None for those of the process.
    """
    _make_names_printable()
    set_verbosity(Verbosity.NORMAL)
    try:
        try:
            app(sys.argv[1:] if arguments is None else arguments, prog_name="srcli")
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # fails here rather than when Python exits
    except SrcliError as error:
        report(str(error))
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        report("interrupted.")
        sys.exit(130)
    except OSError as error:
        _discard_stdout()
        if not isinstance(error, BrokenPipeError):  # the program that reads from this one has read enough
            report(f"Cannot write to {error.filename or 'stdout'}: {error.strerror}.")
        sys.exit(1)
    except Exception as error:
        logger.debug("Traceback:", exc_info=True)
        report(f"Something went wrong: {unexpected(error)}")
        sys.exit(1)


def _make_names_printable() -> None:
    """Print names of files unchanged on stdout, whatever their encoding, and with escapes on stderr."""
    codecs.register_error("unchanged-or-escaped", _unchanged_or_escaped)
    for stream, errors in ((sys.stdout, "unchanged-or-escaped"), (sys.stderr, "backslashreplace")):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)


def _unchanged_or_escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes of file names as they were, and other characters that the encoding does not have with escapes."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def _discard_stdout() -> None:
    """Python would try to write the rest when it exits, and fail again."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
