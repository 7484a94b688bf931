"""VGG16 features: the activations of named layers for an image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srcli.config import VGG_LAYERS
from srcli.core.vgg_layers import LAYERS
from srcli.errors import SrcliError


@dataclass(frozen=True)
class InputNormalization:
    """Input normalization of a network: (RGB in [0, 1] - mean) / std."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


OXFORD_INPUT = InputNormalization((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255))
"""RGB in 0..255 minus the mean color of ImageNet (Simonyan and Zisserman 2014, original Caffe release)."""

TORCHVISION_INPUT = InputNormalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""For weights trained by torchvision."""


@dataclass(frozen=True)
class VGGWeights:
    """Weights of VGG16, with their input normalization and the scales of their features."""

    name: str
    tensors: Mapping[str, Tensor]
    """`features.N.weight` and `features.N.bias`, torchvision's names."""
    normalization: InputNormalization
    feature_scales: Mapping[str, float] = field(default_factory=dict)
    """Mean magnitude of each layer's activations on photographs; 1 for layers that are missing."""


class VGG16Features(nn.Module):
    """The activations of VGG16 after given layers.

    Input: N x 3 x H x W, RGB in [0, 1]. Output: {layer: N x C x H/2^p x W/2^p} from input to output, where p is the number of
    poolings before the layer. Layers after the deepest one are not computed. The network is frozen, and its weights are not
    part of the `state_dict`. `relu4_3` is the end of torchvision's `features[:23]`.
    """

    def __init__(self, layers: Iterable[str], weights: VGGWeights) -> None:
        super().__init__()
        self.layers = tuple(layer for layer in VGG_LAYERS if layer in set(layers))
        self.plan = tuple(LAYERS)[: LAYERS[self.layers[-1]].index + 1]
        inside = 3
        for name in self.plan:
            if name.startswith("conv"):
                outside = LAYERS[name].channels
                for part, shape in (("weight", (outside, inside, 3, 3)), ("bias", (outside,))):
                    key = f"features.{LAYERS[name].index}.{part}"
                    tensor = weights.tensors.get(key)
                    if tensor is None or tensor.shape != shape:
                        raise SrcliError(f"{weights.name} is not a VGG16: {key} is missing or has another shape.")
                    # a buffer, as it is never trained, and not persistent, so that checkpoints do not contain it
                    self.register_buffer(f"{name}_{part}", tensor.float().clone(), persistent=False)
                inside = outside
        self.feature_scales = {layer: weights.feature_scales.get(layer, 1.0) for layer in self.layers}
        self.register_buffer("mean", torch.tensor(weights.normalization.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(weights.normalization.std).view(3, 1, 1), persistent=False)

    mean: Tensor
    std: Tensor

    @property
    def smallest_side(self) -> int:
        """The shortest side of an image in pixels: each pooling before the deepest layer halves it."""
        return LAYERS[self.layers[-1]].stride

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.layers)})"

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        if min(image.shape[-2:]) < self.smallest_side:
            raise SrcliError(
                f"The image is {image.shape[-1]}x{image.shape[-2]} pixels; {self.layers[-1]} needs at least "
                f"{self.smallest_side}x{self.smallest_side}. Use a larger image or a shallower layer."
            )
        features: dict[str, Tensor] = {}
        x = (image - self.mean) / self.std
        for name in self.plan:
            if name.startswith("conv"):
                x = F.conv2d(x, getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias"), padding=1)
            elif name.startswith("relu"):
                # in place, unless the output of the convolution was requested, too
                x = F.relu(x, inplace="conv" + name[4:] not in features)
            else:
                x = F.max_pool2d(x, 2)
            if name in self.layers:
                features[name] = x
        return features
