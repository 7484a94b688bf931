"""Comparing images with a reference: the losses that `srcli train` minimizes, PSNR and SSIM.

Images are kept as the integers of their files and processed in tiles, so that a pair of 100 megapixels takes 2 GB. The tiles
overlap by the receptive fields of VGG16's layers, so the results equal those of the whole images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from srcli.config import LossConfig
from srcli.core.losses import charbonnier, feature_distance
from srcli.core.metrics import WINDOW, luma, ssim_map
from srcli.core.vgg import VGG16Features
from srcli.core.vgg_layers import LAYERS
from srcli.errors import SrcliError
from srcli.io.read import read_exact_srgb
from srcli.io.tiles import Tile, tiles
from srcli.models.checkpoint import load_vgg_weights

DEFAULT_LOSS = LossConfig(pixel=1, feature=1)
"""The pixel loss and the feature loss at the end of VGG16's first 23 layers, summed."""

TILE_PIXELS = 1_000_000
"""Pixels of a tile for VGG16, at most: 600 MB for its first layers."""

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
        rows = [self.tensor((rows, slice(None)), background) for rows, _ in _row_strips(self.size[1])]
        pixels: np.ndarray = np.concatenate([(part[0] * 255).round().byte().permute(1, 2, 0).numpy() for part in rows])
        return pixels

    def alpha(self, place: tuple[slice, slice]) -> Tensor:
        """The alpha of a part, h x w in [0, 1]; 1 if the image has no alpha."""
        part = self.pixels[place]
        if part.shape[2] == 3:
            return torch.ones(part.shape[:2])
        return torch.from_numpy(part[..., 3].astype(np.float32)) / np.iinfo(part.dtype).max


@dataclass(frozen=True)
class Comparison:
    """The difference between `candidate` and `reference`. For similar images, losses are low, PSNR (dB) and SSIM high.

    pixel: mean squared error of RGB in [0, 1]. layers: feature loss at each layer, before its weight. feature: their weighted
    sum. total: what `srcli train` would minimize for `loss`. psnr, ssim: on RGB; psnr_y, ssim_y: on luma (BT.601, 16..235).
    alpha: mean squared error of alpha in [0, 1], NaN if neither image has alpha. terms: the other terms of the loss with a
    weight. No border is cropped. SSIM is NaN for images smaller than its window of 11x11.
    maps: if requested, the squared error of each pixel (`pixel`, H x W) and the distance of the features at each position of a
    layer (H/stride x W/stride). The mean of each map is the metric of that name.
    """

    reference: str
    candidate: str
    width: int
    height: int
    loss: LossConfig
    vgg: str
    pixel: float
    layers: dict[str, float]
    feature: float
    total: float
    psnr: float
    ssim: float
    psnr_y: float
    ssim_y: float
    alpha: float
    terms: dict[str, float] = field(default_factory=dict)
    maps: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)


def compare(
    reference: str | Path,
    candidate: str | Path,
    *,
    loss: LossConfig = DEFAULT_LOSS,
    vgg: str = "oxford",
    background: Sequence[float] = WHITE,
    maps: bool = False,
) -> Comparison:
    """Compare two image files in sRGB. Transparent areas are blended with `background`, RGB in [0, 1].

    Raises SrcliError if an image cannot be read, or if their sizes differ.
    """
    pair = [read_comparison_image(Path(path)) for path in (reference, candidate)]
    return Comparer(loss, vgg).compare(pair[0], pair[1:], background=background, maps=maps)[0]


def read_comparison_image(path: Path, max_pixels: int | None = None) -> ComparisonImage:
    """Read an image file, converted to sRGB at its own bit depth."""
    return ComparisonImage(str(path), read_exact_srgb(path, max_pixels=max_pixels))


class Comparer:
    """Compares images, keeping VGG16 in memory."""

    def __init__(self, loss: LossConfig = DEFAULT_LOSS, vgg: str = "oxford") -> None:
        """loss: all its layers are compared, even with weight 0. vgg: see `srcli.models.checkpoint.load_vgg_weights`."""
        self.loss = loss
        self.vgg = VGG16Features(loss.layers, load_vgg_weights(vgg))
        self.vgg.to(memory_format=torch.channels_last)
        self.vgg_name = vgg

    @torch.inference_mode()
    def compare(
        self,
        reference: ComparisonImage,
        candidates: Sequence[ComparisonImage],
        *,
        background: Sequence[float] = WHITE,
        maps: bool = False,
    ) -> list[Comparison]:
        """One comparison per candidate.

        Raises SrcliError if the size of an image differs from the reference's, or is too small for the deepest layer.
        """
        for candidate in candidates:
            if candidate.size != reference.size:
                raise SrcliError(
                    f"{reference.name} is {_size(reference)} pixels and {candidate.name} is {_size(candidate)}; only images "
                    "of the same size can be compared. Use `resize_to=reference`, `resize_to=candidate` or `crop_to_common`."
                )
        distances = self._features(reference, candidates, background, maps)
        return [
            self._comparison(reference, candidate, layers, background, maps)
            for candidate, layers in zip(candidates, distances, strict=True)
        ]

    def _comparison(
        self,
        reference: ComparisonImage,
        candidate: ComparisonImage,
        layers: Mapping[str, _Sum],
        background: Sequence[float],
        maps: bool,
    ) -> Comparison:
        pixels = _pixels(reference, candidate, background, maps)
        pixel = pixels["pixel"].mean
        means = {name: total.mean for name, total in layers.items()}
        feature = sum(self.loss.layers[layer] * mean for layer, mean in means.items())
        terms = {name: pixels[name].mean for name in ("l1", "charbonnier") if getattr(self.loss, name)}
        if self.loss.tv:
            terms["tv"] = pixels["down"].mean + pixels["across"].mean
        has_alpha = reference.pixels.shape[2] == 4 or candidate.pixels.shape[2] == 4
        return Comparison(
            reference=reference.name,
            candidate=candidate.name,
            width=reference.size[0],
            height=reference.size[1],
            loss=self.loss,
            vgg=self.vgg_name,
            pixel=pixel,
            layers=means,
            feature=feature,
            total=sum(
                getattr(self.loss, name) * value for name, value in (("pixel", pixel), ("feature", feature), *terms.items())
            ),
            psnr=_decibel(pixel),
            ssim=pixels["ssim"].mean,
            psnr_y=_decibel(pixels["luma"].mean),
            ssim_y=pixels["ssim_y"].mean,
            alpha=pixels["alpha"].mean if has_alpha else math.nan,
            terms=terms,
            maps={"pixel": pixels["pixel"].map, **{name: total.map for name, total in layers.items()}} if maps else {},
        )

    def _features(
        self, reference: ComparisonImage, candidates: Sequence[ComparisonImage], background: Sequence[float], maps: bool
    ) -> list[dict[str, _Sum]]:
        """The distances for each candidate and layer, summed over tiles that overlap by the receptive field."""
        width, height = reference.size
        infos = {layer: LAYERS[layer] for layer in self.vgg.layers}
        deepest = list(infos.values())[-1]
        halo = -(-max(deepest.before, deepest.after) // deepest.stride) * deepest.stride
        sums = [
            {name: _Sum((height // layer.stride, width // layer.stride), maps) for name, layer in infos.items()}
            for _ in candidates
        ]
        shape = tile_shape(height, width, halo=halo, stride=deepest.stride, max_pixels=TILE_PIXELS)
        for tile in tiles(height, width, tile=shape, halo=halo):
            truth = self.vgg(reference.tensor(tile.outer, background))
            for candidate, its_sums in zip(candidates, sums, strict=True):
                features = self.vgg(candidate.tensor(tile.outer, background))
                for name, layer in infos.items():
                    inner, place = _at_stride(tile, layer.stride)
                    distance = feature_distance(
                        features[name][inner], truth[name][inner], self.vgg.feature_scales[name], self.loss.distance
                    )
                    its_sums[name].add(distance.mean(dim=1)[0], place)
        return sums


class _Sum:
    """The mean of values that arrive tile by tile, and optionally their map."""

    def __init__(self, size: tuple[int, int], keep_map: bool) -> None:
        self.total, self.count = 0.0, 0
        self.map = np.zeros(size if keep_map else (0, 0), dtype=np.float32)

    def add(self, values: Tensor, place: tuple[slice, slice] | None = None) -> None:
        self.total += values.double().sum().item()
        self.count += values.numel()
        if place is not None and self.map.size:
            self.map[place] = values.numpy()

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan


def tile_shape(height: int, width: int, *, halo: int, stride: int, max_pixels: int) -> tuple[int, int]:
    """Rows and columns of the tiles, without halo, that process the fewest pixels in total.

    Both are multiples of `stride`. With its halo, no tile has more than `max_pixels`.
    """
    best, least = (stride, stride), math.inf
    for down in range(1, -(-height // stride) + 1):
        rows = -(-height // (down * stride)) * stride
        seen_rows = min(height, rows + 2 * halo)
        fit = max(stride, (max_pixels // seen_rows - 2 * halo) // stride * stride)
        across = 1 if max_pixels // seen_rows >= width else -(-width // fit)
        columns = -(-width // (across * stride)) * stride
        seen = down * across * seen_rows * min(width, columns + 2 * halo)
        if seen < least:
            best, least = (rows, columns), seen
    return best


def _at_stride(tile: Tile, stride: int) -> tuple[tuple[slice, ...], tuple[slice, slice]]:
    """The position of a tile's inner part in the features of its outer part, and in those of the whole image."""
    starts = [(inner.start - outer.start) // stride for inner, outer in zip(tile.inner, tile.outer, strict=True)]
    rows, columns = (slice(inner.start // stride, inner.stop // stride) for inner in tile.inner)
    inner = tuple(slice(start, start + end.stop - end.start) for start, end in zip(starts, (rows, columns), strict=True))
    return (slice(None), slice(None), *inner), (rows, columns)


def _pixels(reference: ComparisonImage, candidate: ComparisonImage, background: Sequence[float], maps: bool) -> dict[str, _Sum]:
    """Pixel errors and SSIM, over strips of rows that overlap by SSIM's window."""
    width, height = reference.size
    names = ("pixel", "l1", "charbonnier", "down", "across", "luma", "alpha", "ssim", "ssim_y")
    sums = {name: _Sum((height, width), maps and name == "pixel") for name in names}
    for rows, seen in _row_strips(height):
        hr, sr = (image.tensor((seen, slice(None)), background) for image in (reference, candidate))
        own = slice(0, rows.stop - rows.start)
        difference = (sr - hr)[..., own, :]
        sums["pixel"].add(difference.square().mean(dim=1)[0], (rows, slice(None)))
        sums["l1"].add(difference.abs())
        sums["charbonnier"].add(charbonnier(difference))
        sums["down"].add(sr[..., : own.stop + 1, :].diff(dim=-2).abs())
        sums["across"].add(sr[..., own, :].diff(dim=-1).abs())
        luma_sr, luma_hr = luma(sr), luma(hr)
        sums["luma"].add((luma_sr - luma_hr)[..., own, :].square())
        place = (rows, slice(None))
        sums["alpha"].add((candidate.alpha(place) - reference.alpha(place)).square())
        if min(sr.shape[-2:]) >= WINDOW:
            sums["ssim"].add(ssim_map(sr, hr))
            sums["ssim_y"].add(ssim_map(luma_sr, luma_hr))
    return sums


def _row_strips(height: int) -> Iterator[tuple[slice, slice]]:
    """The rows of each strip, and the rows that it needs for windows that start in them."""
    for top in range(0, height, STRIP_ROWS):
        bottom = min(top + STRIP_ROWS, height)
        yield slice(top, bottom), slice(top, min(bottom + WINDOW - 1, height))


def _decibel(mean_squared_error: float) -> float:
    return math.inf if mean_squared_error == 0 else -10 * math.log10(mean_squared_error)


def _size(image: ComparisonImage) -> str:
    return f"{image.size[0]}x{image.size[1]}"


def bicubic_to(small: ComparisonImage, reference: ComparisonImage) -> ComparisonImage:
    """A small image upscaled to the reference's size with bicubic interpolation, rounded to 8 bits."""
    large = _resized(small, reference.size)
    return ComparisonImage("bicubic", np.rint(large.pixels / 257).astype(np.uint8))


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


CELL = 16
"""Side in pixels of the grid on which the worst regions are found: the stride of VGG16's deepest layer."""


@dataclass(frozen=True)
class Region:
    """A region of the image in pixels, and its weighted pixel and feature loss."""

    left: int
    top: int
    width: int
    height: int
    total: float


def worst_regions(comparison: Comparison, *, count: int = 5, side: int = 64) -> list[Region]:
    """The squares of `side` pixels with the largest loss, worst first, without overlap.

    comparison: with maps. side: a multiple of 16. Squares lie on a grid of 16 pixels. A smaller image is one region.
    """
    loss = comparison.loss
    weights = {"pixel": loss.pixel} | {layer: loss.feature * weight for layer, weight in loss.layers.items()}
    rows, columns = -(-comparison.height // CELL), -(-comparison.width // CELL)
    cells = np.zeros((rows, columns))
    for name, weight in weights.items():
        if weight:
            stride = 1 if name == "pixel" else LAYERS[name].stride
            cells += weight * _cells(comparison.maps[name], CELL // stride, rows, columns)
    span = side // CELL
    windows = np.lib.stride_tricks.sliding_window_view(cells, (min(span, rows), min(span, columns))).mean(axis=(2, 3))
    regions: list[Region] = []
    while len(regions) < count and np.isfinite(windows).any():
        row, column = (int(place) for place in np.unravel_index(np.nanargmax(windows), windows.shape))
        left, top = column * CELL, row * CELL
        regions.append(
            Region(
                left,
                top,
                min(side, comparison.width - left),
                min(side, comparison.height - top),
                float(windows[row, column]),
            )
        )
        windows[max(0, row - span + 1) : row + span, max(0, column - span + 1) : column + span] = np.nan
    return regions


def _cells(values: np.ndarray, block: int, rows: int, columns: int) -> np.ndarray:
    """Means over blocks of `block` x `block` values, rows x columns of them. Blocks at the border repeat the last values."""
    missing = (rows * block - values.shape[0], columns * block - values.shape[1])
    padded = np.pad(values, [(0, max(0, side)) for side in missing], mode="edge")[: rows * block, : columns * block]
    means: np.ndarray = padded.reshape(rows, block, columns, block).mean(axis=(1, 3), dtype=np.float64)
    return means
