"""Losses: (sr, hr) in, a scalar out.

`sr` and `hr` are N x 3 x H x W, RGB in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srcli.core.vgg import VGG16Features
from srcli.settings import GRID_WINDOW, Distance, LossSettings


@dataclass(frozen=True)
class Loss:
    """What is minimised, and the terms that it is the weighted sum of, each before its weight."""

    total: Tensor
    terms: dict[str, Tensor]


class PixelLoss(nn.Module):
    """Mean squared error over pixels and channels (Johnson et al. 2016, sec. 3.2)."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return F.mse_loss(sr, hr)


class L1Loss(nn.Module):
    """Mean absolute error over pixels and channels; less swayed by the few worst pixels than the pixel loss."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return F.l1_loss(sr, hr)


CHARBONNIER_EPSILON = 1e-3
"""Errors well below this count as squared ones (Lai et al. 2017, sec. 3.3, who take 1e-3 too)."""


def charbonnier(difference: Tensor) -> Tensor:
    """An absolute value that is smooth at zero, and zero there: sqrt(d^2 + e^2) - e, of each element."""
    return (difference.square() + CHARBONNIER_EPSILON**2).sqrt() - CHARBONNIER_EPSILON


class CharbonnierLoss(nn.Module):
    """Mean of `charbonnier` over pixels and channels (Lai et al. 2017, LapSRN). Differs: zero for equal images."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return charbonnier(sr - hr).mean()


class TotalVariation(nn.Module):
    """Mean absolute difference of neighbours in `sr`, down plus across (Johnson et al. 2016, sec. 3.3); ignores `hr`."""

    def forward(self, sr: Tensor, _hr: Tensor) -> Tensor:
        return sr.diff(dim=-2).abs().mean() + sr.diff(dim=-1).abs().mean()


def feature_distance(sr: Tensor, hr: Tensor, unit: float, distance: Distance) -> Tensor:
    """Squared or absolute distance of each feature, in units of the layer."""
    difference = (sr.float() - hr.float()) / unit
    return difference.square() if distance == "squared" else difference.abs()


class FeatureLoss(nn.Module):
    """Mean squared distance of VGG16 features, summed over layers with weights (Johnson et al. 2016, sec. 3.2).

    Each layer's features are divided by its unit, the mean magnitude of its activations on photographs, so that layers weigh
    alike and a weight near 1 means something (Gatys et al. 2016, sec. 2, rescale the network to the same end). With units
    of 1 it is the paper's loss.
    """

    def __init__(self, vgg: VGG16Features, layers: Mapping[str, float], distance: Distance = "squared") -> None:
        """layers: the weight of each layer; all of them are layers that `vgg` gives. distance: the paper's is `squared`."""
        super().__init__()
        self.distance: Distance = distance
        self.vgg = vgg
        self.layers = {layer: layers[layer] for layer in vgg.layers}

    def by_layer(self, sr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        """The distance at each layer, before its weight."""
        with torch.no_grad():
            truth = self.vgg(hr)
        features = self.vgg(sr)
        return {
            layer: feature_distance(features[layer], truth[layer], self.vgg.units[layer], self.distance).mean()
            for layer in self.layers
        }

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        distances = self.by_layer(sr, hr)
        return torch.stack([weight * distances[layer] for layer, weight in self.layers.items()]).sum()


class GridLoss(nn.Module):
    """Mean squared error of what a pixel shuffle leaves as a grid: the error's local means, one for each of its places.

    A generator's last step puts the pixels of every scale x scale square in place from channels of their own. A texture that
    is the same in all squares lowers the feature loss a little and shows as a grid; averaged over a window of squares, each
    place by itself, it stays, while texture that follows the picture averages out.
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        height, width = (side - side % self.scale for side in hr.shape[-2:])
        places = F.pixel_unshuffle((sr - hr)[..., :height, :width], self.scale)  # N x 3 s^2 x H/s x W/s
        return F.avg_pool2d(places, GRID_WINDOW, stride=GRID_WINDOW // 2).square().mean()


class FrequencyLoss(nn.Module):
    """Mean absolute difference of the Fourier transforms, real and imaginary parts (after Cho et al. 2021, MIMO-UNet).

    The transform is orthonormal, so that the loss is of the size of the l1 loss whatever the size of the picture.
    """

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return torch.view_as_real(torch.fft.rfft2(sr - hr, norm="ortho")).abs().mean()


class WeightedLoss(nn.Module):
    """The weighted sum of the terms whose weight is not 0."""

    def __init__(self, settings: LossSettings, feature: FeatureLoss | None, scale: int) -> None:
        """feature: needed where the settings give the feature loss a weight. scale: the generator's, for the grid."""
        super().__init__()
        terms: dict[str, nn.Module | None] = {
            "pixel": PixelLoss(),
            "l1": L1Loss(),
            "charbonnier": CharbonnierLoss(),
            "feature": feature,
            "tv": TotalVariation(),
            "grid": GridLoss(scale),
            "frequency": FrequencyLoss(),
        }
        self.weights = {name: getattr(settings, name) for name in terms if getattr(settings, name)}
        self.terms = nn.ModuleDict({name: terms[name] for name in self.weights})  # type: ignore[misc]

    def forward(self, sr: Tensor, hr: Tensor) -> Loss:
        terms = {name: term(sr, hr) for name, term in self.terms.items()}
        return Loss(torch.stack([weight * terms[name] for name, weight in self.weights.items()]).sum(), terms)
