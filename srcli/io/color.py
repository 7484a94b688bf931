"""Tone curves of color profiles, for networks that were trained on sRGB."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyvips

TOLERANCE = 0.1
"""Largest difference from sRGB's tone curve, in 0..1, at which a curve counts as equal. Gamma 1.8 to 2.4 and L* are closer."""


def tone_curve(profile: bytes, *, gray: bool) -> np.ndarray | None:
    """The sRGB encoding of each gray value 0..65535 of a profile: a table of 65536 floats in 0..1.

    None if the curve is close to sRGB's (as in most wide-gamut profiles), or if the profile has no such curve. Only the tone is
    considered: the primaries of a profile hardly change what an edge looks like, so they are left alone.
    """
    ramp = np.arange(65_536, dtype=np.uint16)
    pixels = ramp[None, :, None] if gray else np.repeat(ramp[None, :, None], 3, axis=2)
    image = pyvips.Image.new_from_array(np.ascontiguousarray(pixels)).copy(interpretation="grey16" if gray else "rgb16")
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    try:
        light = image.icc_import(embedded=True, intent="relative", pcs="xyz").numpy()[0, :, 1].astype(np.float64)
    except pyvips.Error:
        return None  # a damaged profile, which other programs ignore, too
    if not light[-1] > 0 or np.any(np.diff(light) < -1e-4):
        return None
    light = np.maximum.accumulate(np.clip(light / light[-1], 0, 1))
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    close = np.abs(encoded - ramp / 65_535).max() <= TOLERANCE
    return None if close else encoded


def to_srgb_tone(curve: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """The lookup table from values of `dtype` with the profile's tone curve to uint16 with sRGB's."""
    top = np.iinfo(dtype).max
    steps = np.linspace(0, 65_535, top + 1).round().astype(int)
    table: np.ndarray = np.rint(curve[steps] * 65_535).astype(np.uint16)
    return table


def from_srgb_tone(curve: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """The lookup table from uint16 with sRGB's tone curve back to values of `dtype` with the profile's."""
    top = np.iinfo(dtype).max
    inverse = np.interp(np.linspace(0, 1, 65_536), curve, np.linspace(0, top, 65_536))
    table: np.ndarray = np.rint(inverse).astype(dtype)
    return table
