"""Panels of the help, options that several commands share, and completions for the shell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from srcli.cli.messages import Verbosity, set_verbosity


@dataclass(frozen=True)
class Panel:
    """A panel of the help; without a title, the first one, with the options that are used most."""

    title: str | None = None

    def option(self, *flags: str, metavar: str, help: str, **settings: Any) -> Any:
        """An option with a value."""
        text = help.replace("[", r"\[")  # rich would take [default: 4] for markup
        return typer.Option(*flags, metavar=metavar, help=text, rich_help_panel=self.title, **settings)

    def flag(self, *flags: str, help: str, **settings: Any) -> Any:
        """An option without a value, and without a type in the help."""
        return self.option(*flags, metavar="", help=help, **settings)


COMMON = Panel()
MESSAGES = Panel("Messages")
MEMORY = Panel("Memory and devices")


def complete_models(incomplete: str) -> list[str]:
    """Names of the shipped models. Where none fits, the shell completes files."""
    from srcli.models.registry import shipped_models

    return [name for name in shipped_models() if name.startswith(incomplete)]


def one_of(*words: str) -> Callable[[str], list[str]]:
    """A completion of these words."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def on_quiet(requested: bool) -> None:
    if requested:
        set_verbosity(Verbosity.QUIET)


def on_verbose(requested: bool) -> None:
    if requested:
        set_verbosity(Verbosity.VERBOSE)


DEVICE_HELP = "auto, cpu, cuda, cuda:N or mps."
complete_devices = one_of("auto", "cpu", "cuda", "mps")
Device = Annotated[str, COMMON.option("-d", "--device", metavar="DEVICE", help=DEVICE_HELP, autocompletion=complete_devices)]
MaxPixels = Annotated[
    int | None,
    MEMORY.option(
        "--max-pixels",
        metavar="N",
        help="Reject images with more pixels. [default: 1000000000, and less for very small files]",
    ),
]
Quiet = Annotated[
    bool,
    MESSAGES.flag("--quiet", help="Print results and errors only.", callback=on_quiet, expose_value=False),
]
Verbose = Annotated[
    bool,
    MESSAGES.flag(
        "-v",
        "--verbose",
        "--debug",
        help="Print details, and tracebacks of unexpected errors.",
        callback=on_verbose,
        expose_value=False,
    ),
]
