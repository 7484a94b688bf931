"""A true picture and another in, how far apart they are out: under the losses that are trained on, and in PSNR and SSIM."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from srcli.core.losses import FeatureLoss, PixelLoss
from srcli.core.metrics import luma, psnr, ssim
from srcli.core.vgg import VGG16Features
from srcli.errors import SrcliError
from srcli.images import read_srgb
from srcli.models import load_vgg_weights
from srcli.settings import LossSettings

DEFAULT_LOSS = LossSettings(pixel=1, feature=1)
"""The pixel loss and the feature loss at the end of VGG16's first 23 layers, summed."""


@dataclass(frozen=True)
class Comparison:
    """How far `candidate` is from `reference`. Losses are lower, PSNR (dB) and SSIM higher, the more alike they are.

    pixel: mean squared error of RGB in [0, 1]. layers: feature loss at each layer, before its weight. feature: their weighted
    sum. total: what `srcli train` would minimise for `loss`. psnr, ssim: on RGB; psnr_y, ssim_y: on luma (BT.601, 16..235).
    No border is cut. SSIM is NaN for pictures smaller than its window of 11x11.
    """

    reference: str
    candidate: str
    width: int
    height: int
    loss: LossSettings
    vgg: str
    pixel: float
    layers: dict[str, float]
    feature: float
    total: float
    psnr: float
    ssim: float
    psnr_y: float
    ssim_y: float


@torch.inference_mode()
def compare(
    reference: str | Path, candidate: str | Path, *, loss: LossSettings = DEFAULT_LOSS, vgg: str = "oxford"
) -> Comparison:
    """Compare two picture files, both brought to 8-bit sRGB; transparency is laid over white.

    Raises SrcliError: a picture that cannot be read, or two of different sizes.
    """
    hr, sr = (_read(Path(path)) for path in (reference, candidate))
    height, width = hr.shape[-2:]
    if hr.shape != sr.shape:
        raise SrcliError(
            f"{reference} is {width}x{height} pixels and {candidate} is {sr.shape[-1]}x{sr.shape[-2]}; "
            "only pictures of one size can be compared. Resize or crop one of them."
        )
    pixel = PixelLoss()(sr, hr).item()
    distances = FeatureLoss(VGG16Features(loss.layers, load_vgg_weights(vgg)), loss.layers).by_layer(sr, hr)
    layers = {layer: distance.item() for layer, distance in distances.items()}
    feature = sum(loss.layers[layer] * distance for layer, distance in layers.items())
    wide_enough = min(height, width) >= 11
    return Comparison(
        reference=str(reference),
        candidate=str(candidate),
        width=width,
        height=height,
        loss=loss,
        vgg=vgg,
        pixel=pixel,
        layers=layers,
        feature=feature,
        total=loss.pixel * pixel + loss.feature * feature,
        psnr=psnr(sr, hr).item(),
        ssim=ssim(sr, hr).item() if wide_enough else float("nan"),
        psnr_y=psnr(luma(sr), luma(hr)).item(),
        ssim_y=ssim(luma(sr), luma(hr)).item() if wide_enough else float("nan"),
    )


def _read(path: Path) -> Tensor:
    return torch.from_numpy(read_srgb(path)).permute(2, 0, 1)[None].float() / 255
