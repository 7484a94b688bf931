"""What a generator makes of photographs that it has not seen, in figures and images, beside bicubic upscaled image."""

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
"""Longest side of what is taken from the middle of each photograph, in pixels: enough to judge, and quick."""

STDIO = 2**31
"""Number of the random stream of the degradation, which no step of training has."""


@dataclass(frozen=True)
class Scores:
    """Means over photographs: PSNR in dB and SSIM, of luma with `scale` pixels cut from each border; and the loss."""

    psnr: float
    ssim: float
    loss: float


@dataclass(frozen=True)
class Sample:
    """One photograph's images, each H x W x 3 uint8; lr is `scale` times smaller."""

    name: str
    lr: np.ndarray
    bicubic: np.ndarray
    sr: np.ndarray
    hr: np.ndarray


class Validation:
    """Held-out photographs, reduced once, in memory."""

    def __init__(self, photos: PhotoDataset, config: TrainConfig, loss: nn.Module, device: torch.device) -> None:
        self.names = photos.names
        self.scale = config.generator.scale
        self.loss = loss
        self.device = device
        self.pairs = [_pair(photos, number, config, device) for number in range(len(photos))]
        self.baseline = self._scores([(bicubic_upsample(lr, self.scale), hr) for lr, hr in self.pairs])

    @torch.no_grad()
    def measure(self, generator: Generator) -> Scores:
        """What the generator reaches, in float32 and folded, as it will be used."""
        used = generator.fused().eval()
        return self._scores([(used(lr), hr) for lr, hr in self.pairs])

    @torch.no_grad()
    def samples(self, generator: Generator, most: int = 4) -> list[Sample]:
        used = generator.fused().eval()
        return [
            Sample(name, *(_pixels(image) for image in (lr, bicubic_upsample(lr, self.scale), used(lr), hr)))
            for name, (lr, hr) in list(zip(self.names, self.pairs, strict=True))[:most]
        ]

    @torch.no_grad()
    def _scores(self, pairs: list[tuple[Tensor, Tensor]]) -> Scores:
        figures: list[tuple[float, float, float]] = []
        for sr, hr in pairs:
            luma = on_luma(rounded(sr), hr, border=self.scale)
            figures.append((psnr(*luma).item(), ssim(*luma).item(), self.loss(sr, hr).total.item()))
        return Scores(*(sum(each) / len(figures) for each in zip(*figures, strict=True)))


def smallest_side(config: TrainConfig) -> int:
    """The least side of a photograph that can be validated on."""
    scale = config.generator.scale
    return (WINDOW + 2 * scale) + 2 * margin(config.degradation, scale) * scale + scale


def _pair(photos: PhotoDataset, number: int, config: TrainConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """(lr, hr) of the photograph's middle, 1 x 3 x H x W."""
    scale = config.generator.scale
    image = photos.images[number]
    if photos.small is not None:
        small = photos.small[number]
        sides = [min(side, SIDE // scale) for side in small.shape[:2]]
        top, left = ((side - part) // 2 for side, part in zip(small.shape[:2], sides, strict=True))
        lr = small[top : top + sides[0], left : left + sides[1]]
        hr = image[top * scale : (top + sides[0]) * scale, left * scale : (left + sides[1]) * scale]
        return _tensor(lr, device), _tensor(hr, device)
    rim = margin(config.degradation, scale)
    sides = [min(side - side % scale, SIDE - SIDE % scale + 2 * rim * scale) for side in image.shape[:2]]
    top, left = ((side - part) // 2 for side, part in zip(image.shape[:2], sides, strict=True))
    hr_whole = _tensor(image[top : top + sides[0], left : left + sides[1]], device)
    small_part, large_part = degraded_pair(config.degradation, hr_whole, scale, seed=(config.seed, STDIO, number))
    return small_part.contiguous(), large_part.contiguous()


def bicubic_upsample(lr: Tensor, scale: int) -> Tensor:
    """By the bicubic kernel with a = -0.5, as Pillow and MATLAB do it."""
    return F.interpolate(lr, scale_factor=scale, mode="bicubic", antialias=True).clamp(0, 1)


def _tensor(pixels: np.ndarray, device: torch.device) -> Tensor:
    return torch.tensor(pixels, device=device).permute(2, 0, 1)[None].float() / 255


def _pixels(image: Tensor) -> np.ndarray:
    pixels: np.ndarray = (rounded(image)[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return pixels
