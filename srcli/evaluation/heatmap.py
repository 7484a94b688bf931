"""A map of figures in, an image of it out: over the photograph, with a legend in the figures' own unit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# dark blue to yellow by way of violet and orange, growing lighter all the way, so that it also reads in gray
_STOPS = np.array(
    [(13, 8, 60), (90, 15, 130), (170, 40, 110), (225, 90, 60), (250, 165, 40), (252, 245, 160)], dtype=np.float64
)


def colors(values: np.ndarray, top: float) -> np.ndarray:
    """Figures from 0 to `top` as RGB: H x W to H x W x 3 uint8."""
    place = np.clip(values / top if top > 0 else np.zeros_like(values), 0, 1) * (len(_STOPS) - 1)
    lower = np.minimum(place.astype(int), len(_STOPS) - 2)
    share = (place - lower)[..., None]
    blend: np.ndarray = np.rint(_STOPS[lower] * (1 - share) + _STOPS[lower + 1] * share).astype(np.uint8)
    return blend


def scale_top(values: np.ndarray) -> float:
    """Where the colors of a map end: what 99.5 % of its figures stay below, so that a single one does not darken the rest."""
    return float(np.quantile(values, 0.995)) or float(values.max())


def overlay(values: np.ndarray, photo: np.ndarray) -> Image.Image:
    """The map over a gray H x W x 3 uint8 photograph, as large as the photograph."""
    heat = Image.fromarray(colors(values, scale_top(values)))
    heat = heat.resize((photo.shape[1], photo.shape[0]), Image.Resampling.NEAREST)
    gray = Image.fromarray(photo).convert("L").convert("RGB")
    return Image.blend(gray, heat, 0.75)


def sheet(maps: Mapping[str, np.ndarray], photo: np.ndarray) -> Image.Image:
    """All maps side by side over the photograph (H x W x 3 uint8, sRGB), each with its name, its mean and its legend."""
    photo = at_most(photo, 1200)
    height, width = photo.shape[:2]
    width_of_panel = max(width, 360)
    font = ImageFont.load_default(16)
    top, bottom, gap = 30, 46, 12
    image = Image.new("RGB", (len(maps) * (width_of_panel + gap) - gap, top + height + bottom), "white")
    draw = ImageDraw.Draw(image)
    for number, (name, values) in enumerate(maps.items()):
        left = number * (width_of_panel + gap)
        draw.text((left, top / 2), f"{name}, mean {values.mean(dtype=np.float64):.4g}", fill="black", anchor="lm", font=font)
        image.paste(overlay(values, photo), (left, top))
        bar = np.tile(np.linspace(0, 1, width_of_panel), (12, 1))
        image.paste(Image.fromarray(colors(bar, 1)), (left, top + height + 6))
        end = scale_top(values)
        draw.text((left, top + height + 32), "0", fill="black", anchor="lm", font=font)
        draw.text((left + width_of_panel / 2, top + height + 32), f"{end / 2:.3g}", fill="black", anchor="mm", font=font)
        draw.text((left + width_of_panel, top + height + 32), f"{end:.3g} and more", fill="black", anchor="rm", font=font)
    return image


def at_most(photo: np.ndarray, side: int) -> np.ndarray:
    """The photograph, reduced where its longer side is longer than `side` pixels."""
    image = Image.fromarray(photo)
    image.thumbnail((side, side))
    return np.array(image)
