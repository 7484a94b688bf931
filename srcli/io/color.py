"""What a color profile means for a network that was trained on sRGB's tone curve."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyvips

FAR = 0.1
"""How far, in 0..1, a tone curve may lie from sRGB's and still be taken for it. Gamma 1.8 to 2.4 and L* lie nearer."""


def tone_curve(profile: bytes, *, gray: bool) -> np.ndarray | None:
    """What sRGB would encode for each of a profile's grays 0..65535: a table of 65536 floats in 0..1.

    None where sRGB's own curve is near enough (most wide-gamut profiles), or where the profile has no such curve. Only tone
    is looked at: a profile's primaries do not matter to what an edge looks like, so they are left as they are.
    """
    ramp = np.arange(65_536, dtype=np.uint16)
    pixels = ramp[None, :, None] if gray else np.repeat(ramp[None, :, None], 3, axis=2)
    image = pyvips.Image.new_from_array(np.ascontiguousarray(pixels)).copy(interpretation="gray16" if gray else "rgb16")
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    try:
        light = image.icc_import(embedded=True, intent="relative", pcs="xyz").numpy()[0, :, 1].astype(np.float64)
    except pyvips.Error:
        return None  # a damaged profile; the image is shown without it everywhere, too
    if not light[-1] > 0 or np.any(np.diff(light) < -1e-4):
        return None
    light = np.maximum.accumulate(np.clip(light / light[-1], 0, 1))
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    near = np.abs(encoded - ramp / 65_535).max() <= FAR
    return None if near else encoded


def to_srgb_tone(curve: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """The table from the profile's values of a type to 16-bit values with sRGB's tone curve."""
    top = np.iinfo(dtype).max
    steps = np.linspace(0, 65_535, top + 1).round().astype(int)
    table: np.ndarray = np.rint(curve[steps] * 65_535).astype(np.uint16)
    return table


def from_srgb_tone(curve: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """The table from 16-bit values with sRGB's tone curve back to the profile's values of a type."""
    top = np.iinfo(dtype).max
    back = np.interp(np.linspace(0, 1, 65_536), curve, np.linspace(0, top, 65_536))
    table: np.ndarray = np.rint(back).astype(dtype)
    return table
