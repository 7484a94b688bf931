"""What srcli says when the user can mend it."""

from collections.abc import Iterable
from difflib import get_close_matches


class SrcliError(Exception):
    """One sentence that the user can act on: the thing, the number, the next step."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error sentence about an unknown `word`: the nearest known one, or all of them."""
    names = list(known)
    close = get_close_matches(word, names, n=1)
    return f"Did you mean {close[0]}?" if close else f"Choose one of {', '.join(names)}."


class ConfigError(SrcliError):
    """A choice that cannot be: an unknown name, a number out of range, a misspelt key."""


class NonFiniteOutputError(SrcliError):
    """A generator made numbers that are none (infinite or NaN), in float32 too."""

    def __init__(self) -> None:
        super().__init__(
            "The model produced NaN or infinite values for this image, so its file is probably damaged. Use another model."
        )
