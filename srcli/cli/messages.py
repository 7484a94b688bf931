"""Messages of the library in the terms of the command line, on stderr."""

from __future__ import annotations

import logging
import re
import sys
from enum import IntEnum

logger = logging.getLogger("srcli")


class Verbosity(IntEnum):
    """What is printed on stderr, as levels of the logger `srcli`."""

    VERBOSE = logging.DEBUG
    NORMAL = logging.INFO
    QUIET = logging.WARNING


def set_verbosity(verbosity: Verbosity) -> None:
    logger.setLevel(verbosity)
    if verbosity is Verbosity.VERBOSE and not logger.handlers:
        logger.addHandler(logging.StreamHandler())  # for tracebacks


def is_quiet() -> bool:
    """Whether only results and errors are printed."""
    return logger.level >= Verbosity.QUIET


def is_verbose() -> bool:
    """Whether details are printed."""
    return logger.level <= Verbosity.VERBOSE


def as_options(message: str) -> str:
    """The message with its arguments (in backticks) as options: `max_pixels` becomes --max-pixels, `tile=0` --tile 0."""
    return re.sub(r"`([a-z]\w*)(?:=([^`]*))?`", _option, message)


def _option(match: re.Match[str]) -> str:
    name, value = match.groups()
    option = f"--{name.replace('_', '-')}"
    return option if value is None else f"{option} {value}"


def report(message: str) -> None:
    """Print one line for the user on stderr: an error or a warning."""
    if sys.stderr is not None:  # print would use stdout instead
        print(f"srcli: {as_options(message)}", file=sys.stderr)


def note(message: str) -> None:
    """Print one line on stderr, unless the user wants it quiet."""
    if not is_quiet():
        report(message)


def detail(message: str) -> None:
    """Print one line on stderr if the user wants details."""
    if is_verbose():
        report(message)
