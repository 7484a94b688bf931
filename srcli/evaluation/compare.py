"""Comparing images with a reference: the losses that `srcli train` minimizes, PSNR and SSIM.

Images are kept as the integers of their files and processed in tiles, so that a pair of 100 megapixels takes 2 GB. The tiles
overlap by the receptive fields of VGG16's layers, so the results equal those of the whole images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from srcli.config import LossConfig, Precision
from srcli.core.device import autocast_dtype, pick_device
from srcli.core.losses import charbonnier, feature_distance
from srcli.core.metrics import WINDOW, luma, ssim_map
from srcli.core.vgg import VGG16Features
from srcli.core.vgg_layers import LAYERS
from srcli.errors import SrcliError
from srcli.evaluation.images import WHITE, ComparisonImage, comparison_image, cropped, row_strips, size_of
from srcli.evaluation.learned import load_learned
from srcli.io.tiles import Tile, tiles
from srcli.models.checkpoint import load_vgg_weights

if TYPE_CHECKING:
    from srcli.inference.arrays import ImageLike

DEFAULT_LOSS = LossConfig(pixel=1, feature=1)
"""The pixel loss and the feature loss at the end of VGG16's first 23 layers, summed."""

TILE_PIXELS = 1_000_000
"""Pixels of a tile for VGG16, at most: 600 MB for its first layers."""


@dataclass(frozen=True)
class Comparison:
    """The difference between `candidate` and `reference`. For similar images, losses are low, PSNR (dB) and SSIM high.

    pixel: mean squared error of RGB in [0, 1]. layers: feature loss at each layer, before its weight. feature: their weighted
    sum. total: what `srcli train` would minimize for `loss`. psnr, ssim: on RGB; psnr_y, ssim_y: on luma (BT.601, 16..235).
    alpha: mean squared error of alpha in [0, 1], NaN if neither image has alpha. terms: the other terms of the loss with a
    weight. learned: LPIPS and DISTS, if requested. crop_border: pixels that were cropped from each side before. luma:
    whether only PSNR and SSIM of luma are shown. SSIM is NaN for images smaller than its 11x11 window.
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
    crop_border: int = 0
    luma: bool = False
    terms: dict[str, float] = field(default_factory=dict)
    learned: dict[str, float] = field(default_factory=dict)
    maps: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        metrics = f"total {self.total:.5g}, PSNR {self.psnr:.2f} dB, SSIM {self.ssim:.4f}"
        return f"<Comparison of {self.candidate} with {self.reference}: {metrics}>"


def compare(
    reference: ImageLike,
    candidate: ImageLike,
    *,
    loss: LossConfig = DEFAULT_LOSS,
    vgg: str = "oxford",
    background: Sequence[float] = WHITE,
    maps: bool = False,
    crop_border: int = 0,
    device: str = "auto",
) -> Comparison:
    """Compare two images in sRGB: paths, PIL images, arrays or tensors (see `srcli.inference.arrays`).

    Transparent areas are blended with `background`, RGB in [0, 1].
    Raises SrcliError if an image cannot be read, or if their sizes differ, and TypeError for anything that is not an image.
    """
    truth, other = comparison_image(reference, "reference"), comparison_image(candidate, "candidate")
    return Comparer(loss, vgg, device).compare(truth, [other], background=background, maps=maps, crop_border=crop_border)[0]


class Comparer:
    """Compares images, keeping VGG16 in memory."""

    def __init__(
        self,
        loss: LossConfig = DEFAULT_LOSS,
        vgg: str = "oxford",
        device: str = "auto",
        precision: Precision = "auto",
        learned: Sequence[str] = (),
    ) -> None:
        """loss: all its layers are compared, even with weight 0. vgg: see `srcli.models.checkpoint.load_vgg_weights`.

        device: auto, cpu, cuda, cuda:N or mps. precision: of VGG16; `auto` is float32 on every device, so that results differ
        by less than 1e-4 of their value between devices. learned: metrics of `srcli.evaluation.learned`.
        Raises SrcliError if the device is not available, or if the weights of a metric are missing.
        """
        self.loss = loss
        self.device = pick_device(device)
        self.dtype = torch.float32 if precision == "auto" else autocast_dtype(precision, self.device)
        self.vgg = VGG16Features(loss.layers, load_vgg_weights(vgg))
        self.vgg.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.vgg_name = vgg
        self.learned = load_learned(learned, self.device)

    @torch.inference_mode()
    def compare(
        self,
        reference: ComparisonImage,
        candidates: Sequence[ComparisonImage],
        *,
        background: Sequence[float] = WHITE,
        maps: bool = False,
        crop_border: int = 0,
        luma: bool = False,
    ) -> list[Comparison]:
        """One comparison per candidate. crop_border: pixels to crop from each side first, as published results do. luma: show
        PSNR and SSIM of luma only.

        Raises SrcliError if the size of an image differs from the reference's, or is too small for the deepest layer.
        """
        for candidate in candidates:
            if candidate.size != reference.size:
                raise SrcliError(
                    f"{reference.name} is {size_of(reference)} pixels and {candidate.name} is {size_of(candidate)}; only "
                    "images of the same size can be compared. "
                    "Use `resize_to=reference`, `resize_to=candidate` or `crop_to_common`."
                )
        if crop_border:
            reference = cropped(reference, crop_border)
            candidates = [cropped(candidate, crop_border) for candidate in candidates]
        try:
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # TF32 has only three digits
                distances = self._features(reference, candidates, background, maps)
                return [
                    replace(
                        self._comparison(reference, candidate, layers, background, maps), crop_border=crop_border, luma=luma
                    )
                    for candidate, layers in zip(candidates, distances, strict=True)
                ]
        except torch.OutOfMemoryError:
            raise SrcliError(f"There is not enough memory on {self.device}. Use `device=cpu`.") from None

    def _comparison(
        self,
        reference: ComparisonImage,
        candidate: ComparisonImage,
        layers: Mapping[str, _Sum],
        background: Sequence[float],
        maps: bool,
    ) -> Comparison:
        pixels = self._pixels(reference, candidate, background, maps)
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
            learned={name: metric(*self._whole(candidate, reference, background)) for name, metric in self.learned.items()},
            maps={"pixel": pixels["pixel"].map, **{name: total.map for name, total in layers.items()}} if maps else {},
        )

    @staticmethod
    def _whole(candidate: ComparisonImage, reference: ComparisonImage, background: Sequence[float]) -> list[Tensor]:
        return [image.tensor((slice(None), slice(None)), background) for image in (candidate, reference)]

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
            truth = self._vgg(reference, tile, background)
            for candidate, its_sums in zip(candidates, sums, strict=True):
                features = self._vgg(candidate, tile, background)
                for name, layer in infos.items():
                    inner, place = _at_stride(tile, layer.stride)
                    distance = feature_distance(
                        features[name][inner], truth[name][inner], self.vgg.feature_scales[name], self.loss.distance
                    )
                    its_sums[name].add(distance.mean(dim=1)[0], place)
        return sums

    def _vgg(self, image: ComparisonImage, tile: Tile, background: Sequence[float]) -> dict[str, Tensor]:
        part = image.tensor(tile.outer, background).to(self.device)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            features: dict[str, Tensor] = self.vgg(part)
        return features

    def _pixels(
        self, reference: ComparisonImage, candidate: ComparisonImage, background: Sequence[float], maps: bool
    ) -> dict[str, _Sum]:
        """Pixel errors and SSIM, over strips of rows that overlap by SSIM's window."""
        width, height = reference.size
        names = ("pixel", "l1", "charbonnier", "down", "across", "luma", "alpha", "ssim", "ssim_y")
        sums = {name: _Sum((height, width), maps and name == "pixel") for name in names}
        for rows, seen in row_strips(height):
            hr, sr = (image.tensor((seen, slice(None)), background).to(self.device) for image in (reference, candidate))
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


class _Sum:
    """The mean of values that arrive tile by tile, and optionally their map."""

    def __init__(self, size: tuple[int, int], keep_map: bool) -> None:
        self.total, self.count = 0.0, 0
        self.map = np.zeros(size if keep_map else (0, 0), dtype=np.float32)

    def add(self, values: Tensor, place: tuple[slice, slice] | None = None) -> None:
        values = values if values.device.type == "cuda" else values.cpu()  # Apple's GPUs have no float64
        self.total += values.double().sum().item()
        self.count += values.numel()
        if place is not None and self.map.size:
            self.map[place] = values.cpu().numpy()

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


def _decibel(mean_squared_error: float) -> float:
    return math.inf if mean_squared_error == 0 else -10 * math.log10(mean_squared_error)
