"""The layers of VGG16: their order, receptive fields and costs. Plain numbers, without torch."""

from __future__ import annotations

from dataclasses import dataclass

from srcli.config import VGG_LAYERS

WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the five blocks."""


@dataclass(frozen=True)
class Layer:
    """A layer of VGG16 and the receptive field of its activations.

    index: in torchvision's `vgg16().features`. stride: pixels between neighboring activations. An activation at (i, j) sees
    rows stride*i - before to stride*i + after of the image, and the same for columns. cost: multiply-adds per pixel of the
    image, of this layer and all before it.
    """

    name: str
    index: int
    channels: int
    stride: int
    before: int
    after: int
    cost: float

    @property
    def receptive_field(self) -> int:
        """Side of the receptive field in pixels."""
        return self.before + 1 + self.after


def _layers() -> dict[str, Layer]:
    layers: dict[str, Layer] = {}
    index = before = after = 0
    stride, inside, cost = 1, 3, 0.0
    for name in VGG_LAYERS:
        block = int(name[4])
        if name.startswith("conv"):
            if name.endswith("_1") and block > 1:  # there is a pooling before every block but the first
                layers[f"pool{block - 1}"] = Layer(f"pool{block - 1}", index, inside, 2 * stride, before, after + stride, cost)
                index, after, stride = index + 1, after + stride, 2 * stride
            outside = WIDTHS[block - 1]
            before, after = before + stride, after + stride
            cost += 9 * inside * outside / stride**2
            inside = outside
        layers[name] = Layer(name, index, inside, stride, before, after, cost)
        index += 1
    return layers


LAYERS = _layers()
"""Every layer and pooling up to conv5_1, from input to output."""
