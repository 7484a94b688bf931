"""Losses: (sr, hr) in, a scalar out.

`sr` and `hr` are N x 3 x H x W, RGB in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srcli.config import GRID_WINDOW, TEXTURE_WINDOW, Distance, LossConfig
from srcli.core.vgg import VGG16Features
from srcli.core.vgg_layers import LAYERS


@dataclass(frozen=True)
class Loss:
    """What is minimized, and the terms that it is the weighted sum of, each before its weight."""

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
    """Mean absolute difference of neighbors in `sr`, down plus across (Johnson et al. 2016, sec. 3.3); ignores `hr`."""

    def forward(self, sr: Tensor, _hr: Tensor) -> Tensor:
        return sr.diff(dim=-2).abs().mean() + sr.diff(dim=-1).abs().mean()


def feature_distance(sr: Tensor, hr: Tensor, unit: float, distance: Distance) -> Tensor:
    """Squared or absolute distance of each feature, in units of the layer."""
    difference = (sr.float() - hr.float()) / unit
    return difference.square() if distance == "squared" else difference.abs()


Features = Mapping[str, Tensor]
"""By layer, N x C x H/2^p x W/2^p."""


class VGGLoss(nn.Module):
    """A loss that compares VGG16's features of two images: the weighted sum over layers of what `at_layer` says of each."""

    def __init__(self, vgg: VGG16Features, layers: Mapping[str, float]) -> None:
        """layers: the weight of each layer; all of them are layers that `vgg` gives."""
        super().__init__()
        self.vgg = vgg
        self.layers = {layer: layers[layer] for layer in vgg.layers}

    def at_layer(self, layer: str, features: Tensor, truth: Tensor) -> Tensor:
        """Of N x C x H x W each, a scalar."""
        raise NotImplementedError

    def features(self, sr: Tensor, hr: Tensor) -> tuple[Features, Features]:
        """Those of sr, and those of hr, which are no part of the graph. Losses of one network can share them."""
        with torch.no_grad():
            truth = self.vgg(hr)
        return self.vgg(sr), truth

    def of_features(self, features: Features, truth: Features) -> Tensor:
        """As `forward`, from what `features` gave."""
        parts = [weight * self.at_layer(layer, features[layer], truth[layer]) for layer, weight in self.layers.items()]
        return torch.stack(parts).sum()

    def by_layer(self, sr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        """What `at_layer` says of each layer, before its weight."""
        features, truth = self.features(sr, hr)
        return {layer: self.at_layer(layer, features[layer], truth[layer]) for layer in self.layers}

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return self.of_features(*self.features(sr, hr))


class FeatureLoss(VGGLoss):
    """Mean squared distance of VGG16 features, summed over layers with weights (Johnson et al. 2016, sec. 3.2).

    Each layer's features are divided by its unit, the mean magnitude of its activations on photographs, so that layers weigh
    alike and a weight near 1 means something (Gatys et al. 2016, sec. 2, rescale the network to the same end). With units
    of 1 it is the paper's loss.
    """

    def __init__(self, vgg: VGG16Features, layers: Mapping[str, float], distance: Distance = "squared") -> None:
        """distance: the paper's is `squared`."""
        super().__init__(vgg, layers)
        self.distance: Distance = distance

    def at_layer(self, layer: str, features: Tensor, truth: Tensor) -> Tensor:
        return feature_distance(features, truth, self.vgg.units[layer], self.distance).mean()


FAINTEST = 1e-4
"""Added to mean squares, in squared units of a layer, so that their root has a slope where there is no texture at all."""


class TextureLoss(VGGLoss):
    """Mean squared difference of the features' local strength: of each one's root mean square in windows of 32 pixels.

    The feature loss asks for every feature in its place. Where the small image does not tell the place, as in fur or grass,
    its least value is a mean of what could be there, which is smooth. This one asks how much of each feature there is around,
    wherever. It is the diagonal of the texture loss of Sajjadi et al. 2017 (EnhanceNet, sec. 4.2.3), who compare the Gram
    matrices (Gatys et al. 2016, sec. 2) of patches; windows overlap by half here, and features are in units of the layer.
    """

    def at_layer(self, layer: str, features: Tensor, truth: Tensor) -> Tensor:
        side = TEXTURE_WINDOW // LAYERS[layer].stride
        unit = self.vgg.units[layer]

        def strength(x: Tensor) -> Tensor:
            return (F.avg_pool2d((x.float() / unit).square(), side, side // 2) + FAINTEST).sqrt()

        return F.mse_loss(strength(features), strength(truth))


class GridLoss(nn.Module):
    """Mean squared error of what a pixel shuffle leaves as a grid: the error's local means, one for each of its places.

    A generator's last step puts the pixels of every scale x scale square in place from channels of their own. A texture that
    is the same in all squares lowers the feature loss a little and shows as a grid; averaged over a window of squares, each
    place by itself, it stays, while texture that follows the image averages out.
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

    The transform is orthonormal, so that the loss is of the size of the l1 loss whatever the size of the image.
    """

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return torch.view_as_real(torch.fft.rfft2(sr - hr, norm="ortho")).abs().mean()


class WeightedLoss(nn.Module):
    """The weighted sum of the terms whose weight is not 0."""

    def __init__(self, config: LossConfig, feature: FeatureLoss | None, scale: int) -> None:
        """feature: needed where the feature or the texture loss has a weight. scale: the generator's, for the grid."""
        super().__init__()
        terms: dict[str, nn.Module | None] = {
            "pixel": PixelLoss(),
            "l1": L1Loss(),
            "charbonnier": CharbonnierLoss(),
            "feature": feature,
            "texture": TextureLoss(feature.vgg, feature.layers) if feature is not None else None,
            "tv": TotalVariation(),
            "grid": GridLoss(scale),
            "frequency": FrequencyLoss(),
        }
        self.weights = {name: getattr(config, name) for name in terms if getattr(config, name)}
        self.terms = nn.ModuleDict({name: terms[name] for name in self.weights})  # type: ignore[misc]

    def forward(self, sr: Tensor, hr: Tensor) -> Loss:
        shared: tuple[Features, Features] | None = None
        terms: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            if isinstance(term, VGGLoss):
                shared = shared or term.features(sr, hr)
                terms[name] = term.of_features(*shared)
            else:
                terms[name] = term(sr, hr)
        return Loss(torch.stack([weight * terms[name] for name, weight in self.weights.items()]).sum(), terms)
