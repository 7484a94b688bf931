"""Color that is described by other means than an ICC profile, as an ICC profile.

These are code points of ITU-T H.273 in PNG (cICP), AVIF and HEIC (nclx), and gAMA and cHRM in PNG. Little CMS builds profiles.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import pyvips

from srcli.io.files import open_binary
from srcli.io.heif_boxes import nclx_of
from srcli.io.png_chunks import color_of_png

CICP = "cicp"
"""The name of the code points among an image's metadata: primaries, transfer, matrix and range, as in PNG's cICP."""

HDR_WHITE = 203
"""Luminance of white in cd/m² (ITU-R BT.2408). What is brighter is clipped when HDR is converted to sRGB."""

_SRGB = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_D65 = (0.3127, 0.3290)
_PRIMARIES: dict[int, tuple[tuple[float, ...], tuple[float, float]]] = {
    1: (_SRGB, _D65),
    4: ((0.67, 0.33, 0.21, 0.71, 0.14, 0.08), (0.310, 0.316)),
    5: ((0.64, 0.33, 0.29, 0.60, 0.15, 0.06), _D65),
    6: ((0.630, 0.340, 0.310, 0.595, 0.155, 0.070), _D65),
    7: ((0.630, 0.340, 0.310, 0.595, 0.155, 0.070), _D65),
    8: ((0.681, 0.319, 0.243, 0.692, 0.145, 0.049), (0.310, 0.316)),
    9: ((0.708, 0.292, 0.170, 0.797, 0.131, 0.046), _D65),
    10: ((1.0, 0.0, 0.0, 1.0, 0.0, 0.0), (1 / 3, 1 / 3)),
    11: ((0.680, 0.320, 0.265, 0.690, 0.150, 0.060), (0.314, 0.351)),
    12: ((0.680, 0.320, 0.265, 0.690, 0.150, 0.060), _D65),
    22: ((0.630, 0.340, 0.295, 0.605, 0.155, 0.077), _D65),
}
"""x and y of red, green and blue, and of white, by H.273's color primaries. 2 is unspecified."""

_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}


@dataclass(frozen=True)
class ColorDescription:
    """profile: an ICC profile, None if the color is sRGB. code_points: as in PNG's cICP, None if there are none or for sRGB."""

    profile: bytes | None = None
    code_points: bytes | None = None


def read_description(source: Path | bytes, icc: bytes | None = None, *, gray: bool) -> ColorDescription | None:
    """The color description of a file. None if it has none that takes precedence over its ICC profile.

    cICP does, as PNG requires, and code points of HDR (PQ or HLG) in the profile itself; nclx, gAMA and cHRM do not. An HDR
    image gets a profile that clips what is brighter than `HDR_WHITE`.
    """
    with open_binary(source) as file:
        chunks = color_of_png(file)
        nclx = nclx_of(file)
    if len(chunks.get(b"cICP", b"")) == 4:
        nclx = chunks[b"cICP"][0], chunks[b"cICP"][1]
    elif icc and (in_profile := _code_points_of_profile(icc)) and in_profile[1] in _LIGHT:
        nclx = in_profile
    if nclx:
        profile = _profile_of_code_points(*nclx, gray=gray)
        return ColorDescription(profile, bytes([*nclx, 0, 1]) if profile else None)
    if b"iCCP" in chunks or b"sRGB" in chunks or len(chunks.get(b"gAMA", b"")) != 4:
        return None
    gamma = struct.unpack(">I", chunks[b"gAMA"])[0] / 100_000
    xy = [part / 100_000 for part in struct.unpack(">8I", chunks[b"cHRM"])] if len(chunks.get(b"cHRM", b"")) == 32 else []
    primaries, white = (tuple(xy[2:]), (xy[0], xy[1])) if xy else (_SRGB, _D65)
    if not 0.1 <= gamma <= 10 or not all(0 < part < 1 for part in (*primaries, *white)):
        return None  # no real description
    close = max(abs(part - usual) for part, usual in zip((*primaries, *white), (*_SRGB, *_D65), strict=True)) < 0.01
    if close and abs(gamma - 0.45455) < 0.02:  # programs write this for sRGB
        return None
    return ColorDescription(_build(primaries, white, gamma=1 / gamma, gray=gray))


def _code_points_of_profile(icc: bytes) -> tuple[int, int] | None:
    """Primaries and transfer of the cicp tag (ICC.1:2022, section 9.2.17), with which a profile describes HDR."""
    for place in range(132, min(len(icc), 132 + 12 * 100), 12):
        if icc[place : place + 4] == b"cicp":
            start = int.from_bytes(icc[place + 4 : place + 8], "big")
            points = icc[start + 8 : start + 10]
            return (points[0], points[1]) if len(points) == 2 else None
    return None


def is_hdr(code_points: bytes | None) -> bool:
    return code_points is not None and code_points[1] in _LIGHT


def with_srgb_tone(image: pyvips.Image, code_points: bytes) -> pyvips.Image:
    """An HDR image with sRGB's tone curve and the profile for that. Little CMS would round the point where clipping starts."""
    deep, gray = image.format == "ushort", image.bands < 3
    top = 65_535 if deep else 255
    light = np.minimum(_LIGHT[code_points[1]](np.linspace(0, 1, top + 1)) / HDR_WHITE, 1)
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    table = np.rint(encoded * top).astype(np.uint16 if deep else np.uint8)
    colors = 1 if gray else 3
    seen = image[:colors].maplut(pyvips.Image.new_from_array(table[None]))
    seen = (seen.bandjoin(image[colors]) if image.bands > colors else seen).copy(interpretation=image.interpretation)
    profile = _build(*_PRIMARIES.get(code_points[0], _PRIMARIES[1]), curve=_srgb_light(), gray=gray)
    seen.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    return seen


def _profile_of_code_points(primaries: int, transfer: int, *, gray: bool) -> bytes | None:
    xy, white = _PRIMARIES.get(primaries, _PRIMARIES[1])
    if transfer in _GAMMAS:
        return _build(xy, white, gamma=_GAMMAS[transfer], gray=gray)
    if transfer in _LIGHT:
        curve = np.minimum(_LIGHT[transfer](np.linspace(0, 1, 4096)) / HDR_WHITE, 1)
        return _build(xy, white, curve=curve, gray=gray)
    # the curves of video (BT.709, BT.2020) are shown like sRGB's, as browsers do
    return None if xy == _SRGB else _build(xy, white, curve=_srgb_light(), gray=gray)


def _build(
    primaries: tuple[float, ...],
    white: tuple[float, float],
    *,
    gamma: float | None = None,
    curve: np.ndarray | None = None,
    gray: bool,
) -> bytes:
    shape = {"primaries": None if gray else list(primaries), "whitepoint": [*white, 1.0]}
    profile = imagecodecs.cms_profile(
        "gray" if gray else "rgb",
        gamma=gamma,
        transferfunction=None if curve is None else curve.astype(np.float32),
        **shape,
    )
    # a fixed date, so that the same image gives the same file
    return profile[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + profile[36:]


def _srgb_light() -> np.ndarray:
    signal = np.linspace(0, 1, 1024)
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


def _pq_light(signal: np.ndarray) -> np.ndarray:
    """cd/m² of a PQ signal in 0..1 (SMPTE ST 2084, equation 4.1)."""
    power = signal ** (32 / 2523)
    light: np.ndarray = 10_000 * (np.maximum(power - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * power)) ** (16_384 / 2610)
    return light


def _hlg_light(signal: np.ndarray) -> np.ndarray:
    """cd/m² of a gray HLG signal in 0..1 on a display of 1000 cd/m² (ITU-R BT.2100, table 5, with a system gamma of 1.2)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    light: np.ndarray = 1000 * scene**1.2
    return light


_LIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {16: _pq_light, 18: _hlg_light}
"""By H.273's transfer characteristics."""
