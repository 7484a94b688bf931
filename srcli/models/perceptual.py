"""VGG16 and the feature loss with the shipped weights, for anyone's training loop."""

from __future__ import annotations

from collections.abc import Mapping

from srcli.config import Distance, parse_layers
from srcli.core import losses, vgg
from srcli.models.checkpoint import load_vgg_weights


class VGG16Features(vgg.VGG16Features):
    """The activations of VGG16 after given layers: N x 3 x H x W, RGB in [0, 1], to {layer: N x C x H/2^p x W/2^p}.

    See `srcli.core.vgg.VGG16Features`.
    """

    def __init__(self, layers: str | Mapping[str, float] = "relu4_3", weights: str = "oxford") -> None:
        """layers: names separated by commas, or johnson, gatys, first23, all. weights: see `load_vgg_weights`.

        Raises ConfigError for an unknown layer, and SrcliError if the weights cannot be read.
        """
        super().__init__(parse_layers(layers) if isinstance(layers, str) else layers, load_vgg_weights(weights))


class FeatureLoss(losses.FeatureLoss):
    """Mean squared distance of VGG16 features (Johnson et al. 2016, sec. 3.2), with the shipped weights.

    (sr, hr), N x 3 x H x W, RGB in [0, 1], to a scalar. Differentiable in `sr`. The network is frozen and not part of the
    `state_dict`. See `srcli.core.losses.FeatureLoss`.
    """

    def __init__(
        self, layers: str | Mapping[str, float] = "relu4_3", distance: Distance = "squared", weights: str = "oxford"
    ) -> None:
        """layers: with optional weights, as in `relu2_2=0.5,relu4_3` or a mapping, or johnson, gatys, first23, all."""
        chosen = parse_layers(layers) if isinstance(layers, str) else dict(layers)
        super().__init__(VGG16Features(chosen, weights), chosen, distance)
