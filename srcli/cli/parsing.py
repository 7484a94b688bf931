"""Colors as words of the command line."""

from __future__ import annotations

import re

from srcli.errors import ConfigError

COLORS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0), "gray": (0.5, 0.5, 0.5)}


def parse_color(word: str) -> tuple[float, float, float]:
    """RGB in 0..1. Raises ConfigError."""
    if word in COLORS:
        return COLORS[word]
    if not re.fullmatch("#[0-9a-fA-F]{6}", word):
        raise ConfigError(f"There is no color {word!r}. Choose white, black, gray or #rrggbb.")
    red, green, blue = (int(word[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return red, green, blue
