"""Conversion to sRGB, and tone curves of color profiles, for networks that were trained on sRGB."""

from __future__ import annotations

import io
from typing import Any

import imagecodecs
import numpy as np
import pyvips
from PIL import ImageCms

from srcli.io.cicp import is_hdr, with_srgb_tone

PROFILE = "icc-profile-data"
"""libvips' name of the color profile."""

TOLERANCE = 0.1
"""Largest difference from sRGB's tone curve, in 0..1, at which a curve counts as equal. Gamma 1.8 to 2.4 and L* are closer."""


def has_usable_profile(image: pyvips.Image) -> bool:
    """Whether the image has a color profile that is complete and for its kind of pixels. Other programs ignore any other."""
    profile: bytes = image.get(PROFILE)
    mode = "CMYK" if image.interpretation == "cmyk" else "L" if image.bands < 3 else "RGB"
    try:  # Little CMS; libvips would replace the profile by another with a warning
        ImageCms.buildTransform(ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode != "CMYK":  # PNG rejects some that Little CMS tolerates
            pixel = pyvips.Image.black(1, 1, bands=len(mode)).copy(interpretation="b-w" if mode == "L" else "srgb")
            pixel.set_type(pyvips.GValue.blob_type, PROFILE, profile)
            pixel.pngsave_buffer()
    except (ImageCms.PyCMSError, OSError, pyvips.Error):
        return False
    return True


def to_rgb_or_gray(image: pyvips.Image) -> pyvips.Image:
    """Convert CMYK and Lab to sRGB. The result of CMYK has an sRGB profile."""
    if image.interpretation == "cmyk":
        return image.icc_transform("srgb", input_profile="cmyk", **_conversion(image))
    if image.interpretation in ("lab", "labs", "labq"):
        return _without_profile(image.colourspace("rgb16" if image.interpretation == "labs" else "srgb"))
    return image


def to_srgb(image: pyvips.Image, code_points: bytes | None = None) -> pyvips.Image:
    """Convert an RGB or gray image from its color profile to sRGB. Gray stays gray. The result has no profile.

    code_points: those of the image, which matter if it is HDR.
    """
    if code_points and is_hdr(code_points):
        image = with_srgb_tone(image, code_points)
    if not image.get_typeof(PROFILE):
        return image
    if image.bands < 3:
        encoded = _srgb_of_ramp(image.get(PROFILE), gray=True)
        if encoded is not None:  # libvips' conversion is up to ten levels off where a 16-bit gray image is dark
            image = _without_profile(image)
            deep = image.format == "ushort"
            table = np.rint(encoded * 65_535).astype(np.uint16) if deep else np.rint(encoded[::257] * 255).astype(np.uint8)
            gray = image[0].maplut(pyvips.Image.new_from_array(table[None]))
            gray = gray.bandjoin(image[1]) if image.bands == 2 else gray
            return gray.copy(interpretation=image.interpretation)
    return _without_profile(image.icc_transform("srgb", **_conversion(image)))


def _conversion(image: pyvips.Image) -> dict[str, Any]:
    depth = 16 if image.format == "ushort" else 8
    return {"intent": "relative", "black_point_compensation": True, "embedded": True, "depth": depth}


def _without_profile(image: pyvips.Image) -> pyvips.Image:
    image = image.copy()
    if image.get_typeof(PROFILE):
        image.remove(PROFILE)
    return image


def tone_curve(profile: bytes, *, gray: bool) -> np.ndarray | None:
    """The sRGB encoding of each gray value 0..65535 of a profile: a table of 65536 floats in 0..1.

    None if the curve is close to sRGB's (as in most wide-gamut profiles), or if the profile has no such curve. Only the tone is
    considered: the primaries of a profile hardly change what an edge looks like, so they are left alone.
    """
    encoded = _srgb_of_ramp(profile, gray=gray)
    close = encoded is None or np.abs(encoded - np.linspace(0, 1, len(encoded))).max() <= TOLERANCE
    return None if close else encoded


def _srgb_of_ramp(profile: bytes, *, gray: bool) -> np.ndarray | None:
    """The sRGB encoding of each gray value 0..65535. None if the profile has no curve for them."""
    ramp = np.linspace(0, 1, 65_536, dtype=np.float32)
    pixels = ramp[None] if gray else np.repeat(ramp[None, :, None], 3, axis=2)
    kind = "gray" if gray else "rgb"
    try:  # with floats, Little CMS is exact; with integers, it approximates curves
        xyz = imagecodecs.cms_transform(
            pixels, profile, imagecodecs.cms_profile("xyz"), colorspace=kind, outcolorspace="xyz", outdtype="f4"
        )
    except (imagecodecs.CmsError, ValueError):
        return None  # a damaged profile, which other programs ignore, too
    light = xyz[0, :, 1].astype(np.float64)
    if not light[-1] > 0 or np.any(np.diff(light) < -1e-4):
        return None
    light = np.maximum.accumulate(np.clip(light / light[-1], 0, 1))
    encoded: np.ndarray = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return encoded


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
