"""An image and its upscaled image in, what a page can show of them out: pieces of both, in sRGB, as small files in memory."""

from __future__ import annotations

import io
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path

import numpy as np
import pyvips
from PIL import Image

from srcli.errors import SrcliError
from srcli.io.read import open_image, reason
from srcli.io.write import resample

SIDE = 1200
"""Pixels of the longer side from which on the whole is shown reduced."""

DETAIL = 340
DETAILS = 3
"""How many pieces of DETAIL x DETAIL pixels are shown beside a reduced whole, pixel for pixel."""

_MARGIN = 3  # pixels around a piece that its upscaled image looks at


@dataclass(frozen=True)
class PreviewRegion:
    """A part of a result, in its pixels; `shown` is the width and height of what stands for it, smaller where it is reduced."""

    left: int
    top: int
    width: int
    height: int
    shown: tuple[int, int]


@dataclass(frozen=True)
class PreviewPair:
    """A piece of what bicubic makes of an image, and of the result: bytes of JPEG files, of PNG where they are transparent."""

    piece: PreviewRegion
    bicubic: bytes
    result: bytes


class Preview:
    """What there is to see of an image, taken before it is upscaled, as the result may take its place.

    source: the image; size: width and height of its result. The image is decoded anew for each piece, and no more of it is
    held. Raises SrcliError as `open_image` does.
    """

    def __init__(self, source: Path | bytes, size: tuple[int, int], *, frame: int | None = None) -> None:
        self._size = size
        self._pieces = _pieces(source, size, frame)
        self._bicubic = [_encoded(_seen(source, size, piece, frame)) for piece in self._pieces]

    def with_result(self, result: Path) -> tuple[PreviewPair, ...]:
        """Its pieces beside those of the result: the whole, then details where the whole is shown reduced."""
        seen = [_encoded(_seen(result, self._size, piece, None)) for piece in self._pieces]
        return tuple(PreviewPair(*view) for view in zip(self._pieces, self._bicubic, seen, strict=True))


def _pieces(source: Path | bytes, size: tuple[int, int], frame: int | None) -> tuple[PreviewRegion, ...]:
    shrink = max(1, max(size) / SIDE)
    whole = PreviewRegion(0, 0, *size, shown=(max(1, round(size[0] / shrink)), max(1, round(size[1] / shrink))))
    if shrink == 1:
        return (whole,)
    overview = np.asarray(_seen(source, size, whole, frame).convert("RGBA").convert("RGBa"))[..., :3]  # 0 where invisible
    return whole, *_details(overview.mean(axis=-1), size)


def _details(overview: np.ndarray, size: tuple[int, int]) -> list[PreviewRegion]:
    """The pieces of a result with the most contrast between neighbors, none over another. overview: H x W, gray."""
    contrast = np.zeros_like(overview)
    contrast[1:] += np.abs(np.diff(overview, axis=0))
    contrast[:, 1:] += np.abs(np.diff(overview, axis=1))
    sums = np.pad(contrast.cumsum(axis=0).cumsum(axis=1), [(1, 0), (1, 0)])
    width, height = (min(DETAIL, side) for side in size)
    columns, rows = np.arange(0, size[0] - width + 1, width), np.arange(0, size[1] - height + 1, height)
    # where the pieces begin and end in the overview
    (left, right), (top, bottom) = (
        [np.rint(ends * length / side).astype(int) for ends in (starts, starts + part)]
        for starts, part, side, length in ((columns, width, size[0], overview.shape[1]), (rows, height, size[1], len(overview)))
    )
    found = sums[np.ix_(bottom, right)] - sums[np.ix_(top, right)] - sums[np.ix_(bottom, left)] + sums[np.ix_(top, left)]
    best = np.sort(np.argsort(-found, axis=None, kind="stable")[:DETAILS])
    places = np.unravel_index(best, found.shape)
    return [
        PreviewRegion(int(columns[column]), int(rows[row]), width, height, (width, height))
        for row, column in zip(*places, strict=True)
    ]


def _seen(source: Path | bytes, size: tuple[int, int], piece: PreviewRegion, frame: int | None) -> Image.Image:
    """A piece as it is shown, upscaled by bicubic where the file is smaller than `size`: RGB or RGBA, sRGB."""
    file = open_image(source, frame=frame, srgb=True)
    across, down = file.width / size[0], file.height / size[1]
    box = (piece.left * across, piece.top * down, (piece.left + piece.width) * across, (piece.top + piece.height) * down)
    left, top = (max(0, floor(start) - _MARGIN) for start in box[:2])
    right, bottom = min(file.width, ceil(box[2]) + _MARGIN), min(file.height, ceil(box[3]) + _MARGIN)
    reduced = min(right - left, piece.shown[0]), min(bottom - top, piece.shown[1])
    if piece.shown == (piece.width, piece.height):
        reduced = right - left, bottom - top  # nothing is: bicubic does it all
    try:
        image = file.image.crop(left, top, right - left, bottom - top)
        if reduced != (image.width, image.height):  # a large whole, in libvips, which need not hold it
            image = resample(image, *reduced, alpha=file.channels in (2, 4))
        pixels = (image / 257 + 0.5).cast("uchar").numpy() if file.dtype == np.uint16 else image.numpy()
    except pyvips.Error as error:
        raise SrcliError(f"{file.name} cannot be shown on a page ({reason(error, file.name)}).") from None
    seen = Image.fromarray(pixels).convert("RGBA" if file.channels in (2, 4) else "RGB")
    x, y = seen.width / (right - left), seen.height / (bottom - top)
    place = (box[0] - left) * x, (box[1] - top) * y, (box[2] - left) * x, (box[3] - top) * y
    return seen.resize(piece.shown, Image.Resampling.BICUBIC, box=place)


def _encoded(file: Image.Image) -> bytes:
    file = io.BytesIO()
    if file.mode == "RGBA" and file.getchannel("A").getextrema() != (255, 255):
        file.save(file, "PNG")
    else:
        file.convert("RGB").save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()
