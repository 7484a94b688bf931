"""Previews of an image and its upscaled version for a page: regions of both in sRGB, encoded in memory."""

from __future__ import annotations

import io
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path

import numpy as np
import pyvips
from PIL import Image

from srcli.errors import SrcliError
from srcli.io.load import reason
from srcli.io.read import open_image
from srcli.io.write import resample

SIDE = 1200
"""Longer side in pixels from which on the whole image is shown downscaled."""

DETAIL = 340
DETAILS = 3
"""Regions of DETAIL x DETAIL pixels that are shown pixel for pixel in addition to a downscaled whole."""

_MARGIN = 3  # pixels around a region that bicubic interpolation uses


@dataclass(frozen=True)
class PreviewRegion:
    """A region of the result, in pixels. shown: width and height of its preview, smaller if it is downscaled."""

    left: int
    top: int
    width: int
    height: int
    shown: tuple[int, int]


@dataclass(frozen=True)
class PreviewPair:
    """A region upscaled with bicubic interpolation, and of the result: JPEG files, or PNG files if they are transparent."""

    region: PreviewRegion
    bicubic: bytes
    result: bytes


class Preview:
    """Previews of an image, made before it is upscaled, as the result may replace it.

    size: width and height of the result. animated: whether the result is an animation, of which the first frame is shown. The
    image is decoded once per region, so that it need not fit into memory.
    Raises SrcliError as `open_image` does.
    """

    def __init__(
        self, source: Path | bytes, size: tuple[int, int], *, frame: int | None = None, animated: bool = False
    ) -> None:
        self._size, self._result_frame = size, 1 if animated else None
        self._regions = _regions(source, size, frame)
        self._bicubic = [_encoded(_rendered(source, size, region, frame)) for region in self._regions]

    def with_result(self, result: Path) -> tuple[PreviewPair, ...]:
        """Pairs with the regions of the result: the whole, then details if the whole is shown downscaled."""
        seen = [_encoded(_rendered(result, self._size, region, self._result_frame)) for region in self._regions]
        return tuple(PreviewPair(*view) for view in zip(self._regions, self._bicubic, seen, strict=True))


def _regions(source: Path | bytes, size: tuple[int, int], frame: int | None) -> tuple[PreviewRegion, ...]:
    shrink = max(1, max(size) / SIDE)
    whole = PreviewRegion(0, 0, *size, shown=(max(1, round(size[0] / shrink)), max(1, round(size[1] / shrink))))
    if shrink == 1:
        return (whole,)
    overview = np.asarray(_rendered(source, size, whole, frame).convert("RGBA").convert("RGBa"))[..., :3]  # 0 where invisible
    return whole, *_details(overview.mean(axis=-1), size)


def _details(overview: np.ndarray, size: tuple[int, int]) -> list[PreviewRegion]:
    """The regions with the most contrast between neighboring pixels, without overlap. overview: H x W, gray."""
    contrast = np.zeros_like(overview)
    contrast[1:] += np.abs(np.diff(overview, axis=0))
    contrast[:, 1:] += np.abs(np.diff(overview, axis=1))
    sums = np.pad(contrast.cumsum(axis=0).cumsum(axis=1), [(1, 0), (1, 0)])
    width, height = (min(DETAIL, side) for side in size)
    columns, rows = np.arange(0, size[0] - width + 1, width), np.arange(0, size[1] - height + 1, height)
    # where the regions start and end in the overview
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


def _rendered(source: Path | bytes, size: tuple[int, int], region: PreviewRegion, frame: int | None) -> Image.Image:
    """The preview of a region, upscaled with bicubic interpolation if the file is smaller than `size`: RGB or RGBA, sRGB."""
    file = open_image(source, frame=frame, srgb=True)
    across, down = file.width / size[0], file.height / size[1]
    box = (region.left * across, region.top * down, (region.left + region.width) * across, (region.top + region.height) * down)
    left, top = (max(0, floor(start) - _MARGIN) for start in box[:2])
    right, bottom = min(file.width, ceil(box[2]) + _MARGIN), min(file.height, ceil(box[3]) + _MARGIN)
    downscaled = min(right - left, region.shown[0]), min(bottom - top, region.shown[1])
    if region.shown == (region.width, region.height):
        downscaled = right - left, bottom - top  # no downscaling; bicubic interpolation does it all
    try:
        image = file.image.crop(left, top, right - left, bottom - top)
        if downscaled != (image.width, image.height):  # libvips downscales a large image without holding it in memory
            image = resample(image, *downscaled, alpha=file.channels in (2, 4))
        pixels = (image / 257 + 0.5).cast("uchar").numpy() if file.dtype == np.uint16 else image.numpy()
    except pyvips.Error as error:
        raise SrcliError(f"{file.name} cannot be previewed ({reason(error, file.name)}).") from None
    seen = Image.fromarray(pixels).convert("RGBA" if file.channels in (2, 4) else "RGB")
    x, y = seen.width / (right - left), seen.height / (bottom - top)
    place = (box[0] - left) * x, (box[1] - top) * y, (box[2] - left) * x, (box[3] - top) * y
    return seen.resize(region.shown, Image.Resampling.BICUBIC, box=place)


def _encoded(preview: Image.Image) -> bytes:
    file = io.BytesIO()
    if preview.mode == "RGBA" and preview.getchannel("A").getextrema() != (255, 255):
        preview.save(file, "PNG")
    else:
        preview.convert("RGB").save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()
