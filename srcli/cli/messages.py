"""Messages of the library in the terms of the command line, on stderr."""

from __future__ import annotations

import re
import sys


def as_options(message: str) -> str:
    """The message with its arguments (in backticks) as options: `max_pixels` becomes --max-pixels, `tile=0` --tile 0."""
    return re.sub(r"`([a-z]\w*)(?:=([^`]*))?`", _option, message)


def _option(match: re.Match[str]) -> str:
    name, value = match.groups()
    option = f"--{name.replace('_', '-')}"
    return option if value is None else f"{option} {value}"


def report(message: str) -> None:
    """Print one line for the user on stderr."""
    if sys.stderr is not None:  # print would use stdout instead
        print(f"srcli: {as_options(message)}", file=sys.stderr)
