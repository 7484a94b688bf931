"""Images to compare: integers of a file in sRGB, at one size."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from srcli.core.metrics import WINDOW
from srcli.errors import SrcliError
from srcli.inference.arrays import as_images
from srcli.io.read import as_srgb, read_exact_srgb

if TYPE_CHECKING:
    from srcli.inference.arrays import ImageLike

STRIP_ROWS = 128
"""Rows that are processed at a time for pixel errors and SSIM."""

WHITE = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class ComparisonImage:
    """An image to compare: its name, and its pixels, H x W x 3 (or 4, with alpha) integers in sRGB."""

    name: str
    pixels: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[0])

    def tensor(self, place: tuple[slice, slice], background: Sequence[float]) -> Tensor:
        """A part as 1 x 3 x h x w, RGB in [0, 1], blended with `background` where it is transparent."""
        part = torch.from_numpy(self.pixels[place].astype(np.float32)) / np.iinfo(self.pixels.dtype).max
        image = part.permute(2, 0, 1)[None]  # in channels_last memory format
        if image.shape[1] == 3:
            return image
        color, alpha = image[:, :3], image[:, 3:]
        return color * alpha + (1 - alpha) * torch.tensor(background).view(1, 3, 1, 1)

    def flat(self, background: Sequence[float]) -> np.ndarray:
        """The image as H x W x 3 uint8, blended with `background` where it is transparent."""
        rows = [self.tensor((rows, slice(None)), background) for rows, _ in row_strips(self.size[1])]
        pixels: np.ndarray = np.concatenate([(part[0] * 255).round().byte().permute(1, 2, 0).numpy() for part in rows])
        return pixels

    def alpha(self, place: tuple[slice, slice]) -> Tensor:
        """The alpha of a part, h x w in [0, 1]; 1 if the image has no alpha."""
        part = self.pixels[place]
        if part.shape[2] == 3:
            return torch.ones(part.shape[:2])
        return torch.from_numpy(part[..., 3].astype(np.float32)) / np.iinfo(part.dtype).max


def comparison_image(image: ImageLike, name: str) -> ComparisonImage:
    """An image of any kind (see `srcli.inference.arrays`), converted to sRGB. name: of an image that is not a file.

    Raises TypeError for a batch of images, and for anything else that is not an image.
    """
    if isinstance(image, str | os.PathLike):
        return read_comparison_image(Path(image))
    images, _ = as_images(image)
    if len(images) > 1:
        raise TypeError(f"{len(images)} images were given where one was expected. Compare them one by one.")
    return ComparisonImage(name, as_srgb(images[0]))


def read_comparison_image(path: Path, max_pixels: int | None = None) -> ComparisonImage:
    """Read an image file, converted to sRGB at its own bit depth."""
    return ComparisonImage(str(path), read_exact_srgb(path, max_pixels=max_pixels))


def bicubic_to(small: ComparisonImage, reference: ComparisonImage) -> ComparisonImage:
    """A small image upscaled to the reference's size with bicubic interpolation, rounded to 8 bits."""
    large = _resized(small, reference.size)
    return ComparisonImage("bicubic", np.rint(large.pixels / 257).astype(np.uint8))


def bicubic_yardstick(reference: ComparisonImage) -> ComparisonImage:
    """The image downscaled by 4 and upscaled again with bicubic interpolation: what little detail looks like in figures."""
    width, height = (max(1, round(side / 4)) for side in reference.size)
    return replace(bicubic_to(_resized(reference, (width, height)), reference), name="bicubic x4")


def match_sizes(
    reference: ComparisonImage, candidates: Sequence[ComparisonImage], resize_to: str | None
) -> tuple[ComparisonImage, list[ComparisonImage]]:
    """All images at one size.

    resize_to: resize with bicubic interpolation to the size of the `reference` or of the first `candidate`. None: crop at the
    right and at the bottom to the largest common size.
    """
    images = [reference, *candidates]
    if resize_to is None:
        width, height = (min(image.size[axis] for image in images) for axis in (0, 1))
        images = [ComparisonImage(image.name, image.pixels[:height, :width]) for image in images]
    else:
        size = reference.size if resize_to == "reference" else candidates[0].size
        images = [image if image.size == size else _resized(image, size) for image in images]
    return images[0], images[1:]


def _resized(image: ComparisonImage, size: tuple[int, int]) -> ComparisonImage:
    """Antialiased bicubic interpolation with a = -0.5, to 16 bits, for each channel separately."""
    planes = torch.from_numpy(image.pixels.astype(np.float32)).permute(2, 0, 1)[None] / np.iinfo(image.pixels.dtype).max
    large = F.interpolate(planes, size=(size[1], size[0]), mode="bicubic", antialias=True).clamp(0, 1)
    return ComparisonImage(image.name, np.rint(large[0].permute(1, 2, 0).numpy() * 65_535).astype(np.uint16))


def cropped(image: ComparisonImage, border: int) -> ComparisonImage:
    """The image without `border` pixels at each side. Raises SrcliError if nothing would be left."""
    if min(image.size) <= 2 * border:
        raise SrcliError(f"{image.name} is {size_of(image)} pixels; nothing is left after cropping {border} from each side.")
    inner = slice(border, -border if border else None)
    return ComparisonImage(image.name, image.pixels[inner, inner])


def size_of(image: ComparisonImage) -> str:
    return f"{image.size[0]}x{image.size[1]}"


def row_strips(height: int) -> Iterator[tuple[slice, slice]]:
    """The rows of each strip, and the rows that it needs for windows that start in them."""
    for top in range(0, height, STRIP_ROWS):
        bottom = min(top + STRIP_ROWS, height)
        yield slice(top, bottom), slice(top, min(bottom + WINDOW - 1, height))
