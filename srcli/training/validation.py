"""Validation on held-out photographs: scores and sample images, compared with bicubic interpolation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srcli.config import TrainConfig
from srcli.core.degradation import degraded_pair, margin, rounded
from srcli.core.metrics import WINDOW, on_luma, psnr, ssim
from srcli.core.networks import Generator
from srcli.training.dataset import PhotoDataset

SIDE = 256
"""Longest side in pixels of the part that is taken from the center of each photograph."""

DEGRADATION_STREAM = 2**31
"""Number of the random stream for degradation, which is not used by any training step."""


@dataclass(frozen=True)
class Scores:
    """Means over photographs: PSNR in dB and SSIM, on luma with `scale` pixels cropped from each border; and the loss."""

    psnr: float
    ssim: float
    loss: float


@dataclass(frozen=True)
class Sample:
    """The images of one photograph, H x W x 3 uint8; lr is `scale` times smaller."""

    name: str
    lr: np.ndarray
    bicubic: np.ndarray
    sr: np.ndarray
    hr: np.ndarray


class Validation:
    """Held-out photographs and their LR images, computed once."""

    def __init__(self, photos: PhotoDataset, config: TrainConfig, loss: nn.Module, device: torch.device) -> None:
        self.names = photos.names
        self.scale = config.generator.scale
        self.loss = loss
        self.device = device
        self.pairs = [_pair(photos, number, config, device) for number in range(len(photos))]
        self.baseline = self._scores([(bicubic_upsample(lr, self.scale), hr) for lr, hr in self.pairs])

    @torch.no_grad()
    def measure(self, generator: Generator) -> Scores:
        """The scores of the fused generator in float32, as it is used for inference."""
        fused = generator.fused().eval()
        return self._scores([(fused(lr), hr) for lr, hr in self.pairs])

    @torch.no_grad()
    def samples(self, generator: Generator, most: int = 5) -> list[Sample]:
        """The images of some photographs, spread over all."""
        fused = generator.fused().eval()
        shown = np.linspace(0, len(self.names) - 1, min(most, len(self.names))).round().astype(int)
        return [
            Sample(self.names[i], *(_pixels(image) for image in (lr, bicubic_upsample(lr, self.scale), fused(lr), hr)))
            for i, (lr, hr) in ((i, self.pairs[i]) for i in shown)
        ]

    @torch.no_grad()
    def _scores(self, pairs: list[tuple[Tensor, Tensor]]) -> Scores:
        scores: list[tuple[float, float, float]] = []
        for sr, hr in pairs:
            luma = on_luma(rounded(sr), hr, border=self.scale)
            scores.append((psnr(*luma).item(), ssim(*luma).item(), self.loss(sr, hr).total.item()))
        return Scores(*(sum(each) / len(scores) for each in zip(*scores, strict=True)))


def smallest_side(config: TrainConfig) -> int:
    """The shortest side of a photograph that can be used for validation."""
    scale = config.generator.scale
    return (WINDOW + 2 * scale) + 2 * margin(config.degradation, scale) * scale + scale


def _pair(photos: PhotoDataset, number: int, config: TrainConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """(lr, hr) of the center of a photograph, 1 x 3 x H x W."""
    scale = config.generator.scale
    image = photos.images[number]
    if photos.lr_images is not None:
        small = photos.lr_images[number]
        sides = [min(side, SIDE // scale) for side in small.shape[:2]]
        top, left = ((side - part) // 2 for side, part in zip(small.shape[:2], sides, strict=True))
        lr_region = small[top : top + sides[0], left : left + sides[1]]
        hr_region = image[top * scale : (top + sides[0]) * scale, left * scale : (left + sides[1]) * scale]
        return _tensor(lr_region, device), _tensor(hr_region, device)
    rim = margin(config.degradation, scale)
    sides = [min(side - side % scale, SIDE - SIDE % scale + 2 * rim * scale) for side in image.shape[:2]]
    top, left = ((side - part) // 2 for side, part in zip(image.shape[:2], sides, strict=True))
    center = _tensor(image[top : top + sides[0], left : left + sides[1]], device)
    lr, hr = degraded_pair(config.degradation, center, scale, seed=(config.seed, DEGRADATION_STREAM, number))
    return lr.contiguous(), hr.contiguous()


def bicubic_upsample(lr: Tensor, scale: int) -> Tensor:
    """Bicubic interpolation with a = -0.5, like Pillow and MATLAB."""
    return F.interpolate(lr, scale_factor=scale, mode="bicubic", antialias=True).clamp(0, 1)


def _tensor(pixels: np.ndarray, device: torch.device) -> Tensor:
    return torch.tensor(pixels, device=device).permute(2, 0, 1)[None].float() / 255


def _pixels(image: Tensor) -> np.ndarray:
    pixels: np.ndarray = (rounded(image)[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return pixels
