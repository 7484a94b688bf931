"""Maps of values as images: over the photograph, with a legend in the unit of the values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

COLORMAP = "inferno"
"""Its lightness increases throughout, so it is readable in gray as well."""


def colors(values: np.ndarray, top: float) -> np.ndarray:
    """Values from 0 to `top` as RGB: H x W to H x W x 3 uint8."""
    relative = np.clip(values / top if top > 0 else np.zeros_like(values), 0, 1)
    rgba: np.ndarray = colormaps[COLORMAP](relative, bytes=True)
    return rgba[..., :3]


def scale_top(values: np.ndarray) -> float:
    """The end of a map's color scale: its 99.5 % quantile, so that a single value does not darken the rest."""
    return float(np.quantile(values, 0.995)) or float(values.max())


def overlay(values: np.ndarray, photo: np.ndarray) -> Image.Image:
    """The map over a gray version of the photograph, H x W x 3 uint8, at the photograph's size."""
    heat = Image.fromarray(colors(values, scale_top(values)))
    heat = heat.resize((photo.shape[1], photo.shape[0]), Image.Resampling.NEAREST)
    gray = Image.fromarray(photo).convert("L").convert("RGB")
    return Image.blend(gray, heat, 0.75)


def sheet(maps: Mapping[str, np.ndarray], photo: np.ndarray) -> Image.Image:
    """All maps in a row over the photograph (H x W x 3 uint8, sRGB), each with its name, its mean and its legend."""
    photo = at_most(photo, 1200)
    height, width = photo.shape[:2]
    panel = max(width, 360)
    font = ImageFont.load_default(16)
    top, bottom, gap = 30, 46, 12
    image = Image.new("RGB", (len(maps) * (panel + gap) - gap, top + height + bottom), "white")
    draw = ImageDraw.Draw(image)
    for number, (name, values) in enumerate(maps.items()):
        left = number * (panel + gap)
        draw.text((left, top / 2), f"{name}, mean {values.mean(dtype=np.float64):.4g}", fill="black", anchor="lm", font=font)
        image.paste(overlay(values, photo), (left, top))
        bar = np.tile(np.linspace(0, 1, panel), (12, 1))
        image.paste(Image.fromarray(colors(bar, 1)), (left, top + height + 6))
        end = scale_top(values)
        draw.text((left, top + height + 32), "0", fill="black", anchor="lm", font=font)
        draw.text((left + panel / 2, top + height + 32), f"{end / 2:.3g}", fill="black", anchor="mm", font=font)
        draw.text((left + panel, top + height + 32), f"{end:.3g} and more", fill="black", anchor="rm", font=font)
    return image


def at_most(photo: np.ndarray, side: int) -> np.ndarray:
    """The photograph, downscaled if its longer side is longer than `side` pixels."""
    image = Image.fromarray(photo)
    image.thumbnail((side, side))
    return np.array(image)
