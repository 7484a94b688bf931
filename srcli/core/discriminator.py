"""The discriminator of the adversarial loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """Rates patches of an image (PatchGAN, Isola et al. 2017, sec. 3.2.2): N x 3 x H x W in [0, 1] to N x 1 x H/8 x W/8.

    Every convolution but the last has a spectral norm of 1 (Miyato et al. 2018), which keeps its gradients bounded.
    """

    def __init__(self, channels: int = 48) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inside = 3
        for width in (channels, 2 * channels, 4 * channels):
            layers += [_conv(inside, width, stride=1), _conv(width, width, stride=2)]
            inside = width
        self.layers = nn.Sequential(*layers, _conv(inside, inside, stride=1), nn.Conv2d(inside, 1, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        ratings: Tensor = self.layers(2 * image - 1)
        return ratings


def _conv(inside: int, outside: int, *, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inside, outside, 3 if stride == 1 else 4, stride=stride, padding=1)
    return nn.Sequential(spectral_norm(conv), nn.LeakyReLU(0.2))


def discriminator_loss(fake: Tensor, real: Tensor) -> Tensor:
    """Ratings of sr and of hr to a scalar: each should be on its side of the other's mean.

    The relativistic average loss (Jolicoeur-Martineau 2018, sec. 4.3).
    """
    return F.softplus(fake.mean() - real).mean() + F.softplus(fake - real.mean()).mean()


def generator_loss(fake: Tensor, real: Tensor) -> Tensor:
    """The adversarial loss: patches of sr should be rated above the mean of hr.

    Half of the relativistic average loss; the other half, which lowers the ratings of hr, has no gradient for sr but its mean.
    """
    return F.softplus(real.mean() - fake).mean()


def ratings_of(discriminator: nn.Module, *images: Tensor) -> list[Tensor]:
    """The ratings of several batches, computed as one."""
    sizes = [len(image) for image in images]
    ratings = discriminator(torch.cat(images).contiguous(memory_format=torch.channels_last)).float()
    return list(ratings.split(sizes))
