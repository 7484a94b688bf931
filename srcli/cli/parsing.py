"""Parsing of values on the command line. Everything here raises ConfigError for invalid input."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from srcli.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from srcli.config import LossConfig
    from srcli.inference.plan import Size

_COLORS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0), "gray": (0.5, 0.5, 0.5), "grey": (0.5, 0.5, 0.5)}
_BYTES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_color(word: str) -> tuple[float, float, float]:
    """`white`, `black`, `gray` or `#rrggbb` as RGB in [0, 1]."""
    if word in _COLORS:
        return _COLORS[word]
    if not re.fullmatch("#[0-9a-fA-F]{6}", word):
        raise ConfigError(f"There is no color {word!r}; choose white, black, gray or #rrggbb.")
    red, green, blue = (int(word[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return red, green, blue


def parse_size(word: str, *, fit: bool = False) -> Size:
    """`1920x1080`, `1920x` or `x1080`."""
    from srcli.inference.plan import Size

    match = re.fullmatch(r"(\d*)[xX×](\d*)", word.strip())
    width, height = (int(part) if part else None for part in match.groups()) if match else (None, None)
    if not (width or height) or width == 0 or height == 0:
        raise ConfigError(f"Invalid size {word!r}; write 1920x1080, 1920x or x1080.")
    return Size(width=width, height=height, fit=fit)


def parse_memory(word: str) -> int:
    """`512M`, `2G`, `1.5GiB` and the like in bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", word.strip().lower())
    if not match or not float(match[1]):
        raise ConfigError(f"Invalid amount of memory {word!r}; write a number with its unit, as in 800M or 2G.")
    return int(float(match[1]) * _BYTES[match[2]])


def parse_denoise(word: str) -> float | None:
    """An amount in 0..1; None for `auto`."""
    try:
        amount = None if word == "auto" else float(word)
    except ValueError:
        amount = math.nan
    if amount is not None and not 0 <= amount <= 1:
        raise ConfigError(f"--denoise is {word}; it must be a number from 0 to 1, or auto.")
    return amount


def parse_limits(words: Sequence[str], loss: LossConfig, learned: Sequence[str] = ()) -> dict[str, float]:
    """Limits for metrics of a comparison under `loss`, as in `total=0.02`."""
    from srcli.evaluation.formatting import MEANINGS, TERMS

    limits: dict[str, float] = {}
    known = [*MEANINGS, *loss.layers, *(name for name in TERMS if getattr(loss, name)), *learned]
    for word in words:
        name, _, number = word.partition("=")
        if name not in known:
            raise ConfigError(f"There is no metric {name!r}. {did_you_mean(name, known)}")
        try:
            limits[name] = float(number)
        except ValueError:
            limits[name] = math.nan
        if math.isnan(limits[name]):
            raise ConfigError(f"The limit of {name} is {number!r}, not a number; write {name}=0.5.")
    return limits
