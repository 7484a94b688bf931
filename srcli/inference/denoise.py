"""How much noise and JPEG artifacts an image has, and so how much of them to remove."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from srcli.io.jpeg_segments import estimated_quality, read_segments
from srcli.io.read import ImageReader, open_image

LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The values of `denoise` that are chosen from, so that a batch loads few models."""

JPEG_QUALITY = (92, 86, 78, 66)
"""Qualities below which the levels after 0 are chosen.

Down to quality 60, each level is at or below the one with the highest PSNR at x4, as stronger ones smooth more
(benchmarks/RESULTS.md, "Photo models"). ST-LPIPS is lowest without denoising at every quality.
"""

NOISE = (2.5, 3.5, 5.0, 7.0)
"""Standard deviations, of 255, from which on the levels after 0 are chosen.

Up to 9, PSNR at x4 is within 0.02 dB of that of the best level (benchmarks/RESULTS.md, "Photo models").
"""

WHITE = 0.6
"""Least ratio of noise's energy in the second to that in the first differences. 1 for white noise, less for textures."""

_BLOCK = 16
_FEWEST = 8  # blocks that are enough for an estimate
_ROWS = 256  # of a band that is measured
_BANDS = 8
_DECODED = 2**26  # pixels after which a larger image is judged by its top


@dataclass(frozen=True)
class DenoiseEstimate:
    """level: one of LEVELS. reason: what it was chosen for, in words; empty at level 0."""

    level: float
    reason: str = ""


def estimate_denoise(source: Path | bytes, *, frame: int | None = None, max_pixels: int | None = None) -> DenoiseEstimate:
    """The level for an image file, from its JPEG quantization tables and the noise in its smoothest areas.

    Clean images get 0. Noise that is not white, as after a camera's noise reduction, is not recognized. frame, max_pixels: see
    `open_image`.
    Raises SrcliError as `open_image` does.
    """
    image = open_image(source, frame=frame, max_pixels=max_pixels, allow_truncated=True, all_frames=True)
    estimates = [DenoiseEstimate(0)]
    if image.loader.startswith("jpeg"):
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            quality = estimated_quality(read_segments(file)[0])
        if quality is not None:
            level = LEVELS[sum(quality < limit for limit in JPEG_QUALITY)]
            estimates.append(DenoiseEstimate(level, f"a JPEG quality of about {quality:.0f}"))
            if level == LEVELS[-1]:
                return estimates[-1]  # without decoding it
    noise = _noise([_energies(luma) for luma in _bands(image)])
    level = LEVELS[sum(noise >= limit for limit in NOISE)]
    estimates.append(DenoiseEstimate(level, f"noise of about {noise:.0f} levels"))
    best = max(estimates, key=lambda estimate: estimate.level)
    return best if best.level else DenoiseEstimate(0)


def noise_level(luma: np.ndarray) -> float:
    """The standard deviation of white noise in the smoothest blocks of an image; 0 if what they have is not white.

    luma: H x W, 0..255. The second differences, in which smooth shades vanish (Immerkaer 1996, "Fast Noise Variance
    Estimation"), are compared with the first: noise has the same energy in both, textures have more in the first.
    """
    return _noise([_energies(luma)])


def _energies(luma: np.ndarray) -> np.ndarray:
    """The variance of white noise that would have the energy of the second and of the first differences of each block."""
    inner = luma[1:-1, 1:-1]
    corners = luma[:-2, :-2] + luma[:-2, 2:] + luma[2:, :-2] + luma[2:, 2:]
    sides = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    second = (corners - 2 * sides + 4 * inner) ** 2 / 36
    first = ((luma[1:-1, 2:] - inner) ** 2 + (luma[2:, 1:-1] - inner) ** 2) / 4
    height, width = (side // _BLOCK for side in inner.shape)
    second, first, mean = (
        each[: height * _BLOCK, : width * _BLOCK].reshape(height, _BLOCK, width, _BLOCK).mean(axis=(1, 3)).ravel()
        for each in (second, first, inner)
    )
    clipped = (mean < 10) | (mean > 245)  # there noise is cut off
    energies: np.ndarray = np.stack([second, first])[:, ~clipped]
    return energies


def _noise(energies: list[np.ndarray]) -> float:
    second, first = np.concatenate(energies, axis=1)
    if len(first) < _FEWEST:
        return 0
    smoothest = np.argsort(first)[: max(_FEWEST, len(first) // 8)]
    white, all_of_it = np.median(second[smoothest]), np.median(first[smoothest])
    return float(np.sqrt(white)) if white > WHITE * all_of_it else 0.0


def _bands(image: ImageReader) -> Iterator[np.ndarray]:
    """The luma of up to _BANDS bands of the first frame, evenly spaced: H x W, 0..255."""
    height = min(image.frame_height, max(_ROWS, _DECODED // image.width))
    period = max(_ROWS, height // _BANDS)
    weights = np.array([0.299, 0.587, 0.114] if image.channels > 2 else [1.0], np.float32) * (255 / np.iinfo(image.dtype).max)
    for begin in range(0, height, period):
        rows = image.read(min(_ROWS, height - begin))
        yield rows[..., : len(weights)] @ weights
        skipped = period - _ROWS
        while skipped > 0 and image.read(min(_ROWS, skipped)).size:
            skipped -= _ROWS
