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
from srcli.core.degradation import downscale
from srcli.core.metrics import luma
from srcli.core.vgg import VGG16Features
from srcli.core.vgg_layers import LAYERS


@dataclass(frozen=True)
class Loss:
    """The weighted sum that is minimized, and its terms before their weights."""

    total: Tensor
    terms: dict[str, Tensor]

    def plus(self, name: str, weight: float, term: Tensor) -> Loss:
        """With another term."""
        return Loss(self.total + weight * term, self.terms | {name: term})


class PixelLoss(nn.Module):
    """Mean squared error over pixels and channels (Johnson et al. 2016, sec. 3.2)."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return F.mse_loss(sr, hr)


class L1Loss(nn.Module):
    """Mean absolute error over pixels and channels. Less sensitive to outliers than the pixel loss."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return F.l1_loss(sr, hr)


CHARBONNIER_EPSILON = 1e-3
"""Smaller errors are almost squared (Lai et al. 2017, sec. 3.3, with the same value)."""


def charbonnier(difference: Tensor) -> Tensor:
    """A smooth absolute value, sqrt(d^2 + e^2) - e, which is 0 at 0. Elementwise."""
    return (difference.square() + CHARBONNIER_EPSILON**2).sqrt() - CHARBONNIER_EPSILON


class CharbonnierLoss(nn.Module):
    """Mean of `charbonnier` over pixels and channels (Lai et al. 2017, LapSRN). Unlike there, 0 for equal images."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return charbonnier(sr - hr).mean()


class TotalVariation(nn.Module):
    """Mean absolute difference of neighboring pixels of `sr`, vertical plus horizontal (Johnson et al. 2016, sec. 3.3)."""

    def forward(self, sr: Tensor, _hr: Tensor) -> Tensor:
        return sr.diff(dim=-2).abs().mean() + sr.diff(dim=-1).abs().mean()


def feature_distance(sr: Tensor, hr: Tensor, scale: float, distance: Distance) -> Tensor:
    """Squared or absolute distance of each feature, divided by the scale of the layer."""
    difference = (sr.float() - hr.float()) / scale
    return difference.square() if distance == "squared" else difference.abs()


Features = Mapping[str, Tensor]
"""Activations by layer, N x C x H/2^p x W/2^p."""


class VGGLoss(nn.Module):
    """A loss on VGG16 features: the weighted sum of `at_layer` over layers."""

    def __init__(self, vgg: VGG16Features, layers: Mapping[str, float]) -> None:
        """layers: the weight of each layer. `vgg` must return all of them."""
        super().__init__()
        self.vgg = vgg
        self.layers = {layer: layers[layer] for layer in vgg.layers}

    def at_layer(self, layer: str, sr: Tensor, hr: Tensor) -> Tensor:
        """The loss at a layer, a scalar. sr, hr: features, N x C x H x W."""
        raise NotImplementedError

    def features(self, sr: Tensor, hr: Tensor) -> tuple[Features, Features]:
        """The features of sr and, without gradient, of hr. Losses with the same network can share them."""
        with torch.no_grad():
            truth = self.vgg(hr)
        return self.vgg(sr), truth

    def of_features(self, features: Features, truth: Features) -> Tensor:
        """The loss for the result of `features`."""
        parts = [weight * self.at_layer(layer, features[layer], truth[layer]) for layer, weight in self.layers.items()]
        return torch.stack(parts).sum()

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return self.of_features(*self.features(sr, hr))

    def __repr__(self) -> str:
        layers = ", ".join(f"{layer}={weight:g}" for layer, weight in self.layers.items())
        return f"{type(self).__name__}({layers})"


class FeatureLoss(VGGLoss):
    """Mean squared distance of VGG16 features, summed over layers with weights (Johnson et al. 2016, sec. 3.2).

    The features of each layer are divided by their scale, the mean magnitude of the layer's activations on photographs, so that
    layers with the same weight contribute similarly (Gatys et al. 2016, sec. 2, rescale the network for the same reason). With
    scales of 1, this is the loss of the paper.
    """

    def __init__(self, vgg: VGG16Features, layers: Mapping[str, float], distance: Distance = "squared") -> None:
        """distance: `squared` in the paper."""
        super().__init__(vgg, layers)
        self.distance: Distance = distance

    def at_layer(self, layer: str, sr: Tensor, hr: Tensor) -> Tensor:
        return feature_distance(sr, hr, self.vgg.feature_scales[layer], self.distance).mean()


TEXTURE_EPSILON = 1e-4
"""Added to scaled mean squares, so that the gradient of their root is finite where there is no texture."""


class TextureLoss(VGGLoss):
    """Mean squared difference of local feature strength: the root mean square of each feature in windows of 32 pixels.

    The feature loss requires every feature at its exact position. Where the LR image does not determine the position, as in fur
    or grass, it is minimized by a smooth average. This loss compares how much of each feature there is in a neighborhood. It is
    the diagonal of the texture loss of Sajjadi et al. 2017 (EnhanceNet, sec. 4.2.3), who compare the Gram matrices of patches
    (Gatys et al. 2016, sec. 2). Unlike there, windows overlap by half, and features are divided by the scale of the layer.
    """

    def at_layer(self, layer: str, sr: Tensor, hr: Tensor) -> Tensor:
        side = TEXTURE_WINDOW // LAYERS[layer].stride
        scale = self.vgg.feature_scales[layer]

        def strength(x: Tensor) -> Tensor:
            return (F.avg_pool2d((x.float() / scale).square(), side, side // 2) + TEXTURE_EPSILON).sqrt()

        return F.mse_loss(strength(sr), strength(hr))


class GridLoss(nn.Module):
    """Penalizes the grid that a pixel shuffle can leave: the mean squared local mean error for each position in its squares.

    The last step of a generator fills every scale x scale square from different channels. A pattern that is the same in all
    squares slightly lowers the feature loss and is visible as a grid. Averaged over a window of squares, for each position
    separately, it remains, while texture that follows the image averages out.
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        height, width = (side - side % self.scale for side in hr.shape[-2:])
        positions = F.pixel_unshuffle((sr - hr)[..., :height, :width], self.scale)  # N x 3 s^2 x H/s x W/s
        return F.avg_pool2d(positions, GRID_WINDOW, stride=GRID_WINDOW // 2).square().mean()


class FrequencyLoss(nn.Module):
    """Mean absolute difference of the Fourier transforms, real and imaginary parts (after Cho et al. 2021, MIMO-UNet).

    The transform is orthonormal, so the loss has the magnitude of the l1 loss for any image size.
    """

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return torch.view_as_real(torch.fft.rfft2(sr - hr, norm="ortho")).abs().mean()


class ConsistencyLoss(nn.Module):
    """Mean absolute difference of sr and hr after both are downscaled by `scale`, so that sr agrees with the LR image."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        height, width = (side - side % self.scale for side in hr.shape[-2:])
        return downscale((sr - hr)[..., :height, :width], self.scale).abs().mean()


PEAK_BANDS = 4
"""Parts of an image in which the peak loss looks for peaks separately."""

PEAK_NEIGHBORS = (2, 3, 4, 5, 6)
"""Distances, in steps of the discrete spectrum, of the frequencies that a peak is compared with."""

PEAK_FLOOR = 1e-4
"""Power that is added to both, so that flat areas have no peaks."""


class PeakLoss(nn.Module):
    """Penalizes spectral peaks at multiples of 1/scale cycles per pixel, where a pixel shuffle leaves a weave.

    A deterministic network can only invent texture from the phase of its pixel shuffle, and a discriminator does not prevent
    that. In luma, along rows and along columns, this compares the power at such a frequency with the power next to it, as the
    difference of their logarithms, and sr with hr. The mean difference of a batch is squared; in addition, the square of every
    single one counts a fiftieth. Less than in hr costs as much as more: else a network moves the power from the peaks to other
    high frequencies, where it looks no better.

    The larger the images, the nearer are the frequencies that a peak is compared with. In crops of 32 periods, a network learns
    to hide a narrow peak in a dip as wide as they see; use 64.
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        more = [ours - theirs for ours, theirs in zip(self._excesses(sr), self._excesses(hr), strict=True)]
        return torch.stack([each.mean().square() + 0.02 * each.square().mean() for each in more]).sum()

    def _excesses(self, image: Tensor) -> list[Tensor]:
        """Logarithms of peaks against what is next to them, for each direction and multiple: N x PEAK_BANDS."""
        step = 2 * PEAK_BANDS * self.scale
        height, width = (side - side % step for side in image.shape[-2:])
        rows = luma(image.float())[:, 0, :height, :width]
        excesses: list[Tensor] = []
        for lines in (rows, rows.transpose(1, 2)):
            length = lines.shape[2]
            differences = lines - lines.roll(1, dims=2)  # flattens the spectrum of photographs
            power = torch.fft.rfft(differences, dim=2).abs().square().unflatten(1, (PEAK_BANDS, -1)).mean(dim=2)
            for multiple in range(1, self.scale // 2 + 1):
                peak = length * multiple // self.scale
                places = [
                    peak + sign * away for away in PEAK_NEIGHBORS for sign in (-1, 1) if peak + sign * away < power.shape[2]
                ]
                around = torch.stack([power[..., place] for place in places]).mean(dim=0)
                excesses.append((power[..., peak] + PEAK_FLOOR).log() - (around + PEAK_FLOOR).log())
        return excesses


class WeightedLoss(nn.Module):
    """The weighted sum of the terms with a nonzero weight, except for the adversarial one, whose discriminator is trained."""

    def __init__(self, config: LossConfig, feature: FeatureLoss | None, scale: int) -> None:
        """feature: required for the feature and the texture loss. scale: of the generator, for terms that depend on it."""
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
            "consistency": ConsistencyLoss(scale),
            "peak": PeakLoss(scale),
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
