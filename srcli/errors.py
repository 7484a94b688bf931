"""Errors that the user can fix."""

from collections.abc import Iterable
from difflib import get_close_matches


class SrcliError(Exception):
    """An error that the user can fix, as one sentence: what is wrong, with the number, and the next step.

    Messages name arguments in backticks, as in `overwrite`. The command line shows them as options.
    """


class ConfigError(SrcliError):
    """An invalid choice: an unknown name, a number out of range, a misspelled key."""


class NonFiniteOutputError(SrcliError):
    """A generator produced NaN or infinite values, in float32 as well."""

    def __init__(self) -> None:
        super().__init__("The model produced NaN or infinite values, so its file is probably damaged. Use another model.")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown `word`: the most similar known one, or all of them."""
    names = list(known)
    close = get_close_matches(word, names, n=1)
    return f"Did you mean {close[0]}?" if close else f"Choose one of {', '.join(names)}."


def unexpected(error: Exception) -> str:
    """The end of a message about an error that srcli should have foreseen."""
    text = " ".join(str(error).split())[:200]
    return f"unexpected {type(error).__name__}{f' ({text})' if text else ''}. Please report it, with the output of `verbose`."


def counted(number: int, noun: str) -> str:
    """`1 photograph`, `2 photographs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """`45 s`, `12 min` or `3 h 05 min`."""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
