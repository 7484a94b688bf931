"""Network bodies, each described once, and what follows from a description alone. Plain Python, without torch.

A body is a function of a few lines over the operations in `Ops`. Different implementations of `Ops` interpret the same
description: `Shapes` here (channels, receptive field, cost, int8 scale groups), `srcli.core.networks` (a torch module),
`srcli.models.quantization` (calibration) and `srcli.inference.openvino_backend` (an OpenVINO graph).

To add a body: write its config in `srcli.config`, its function here, and add both to `BODIES`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, TypeVar

from srcli.config import CompactConfig, GeneratorConfig, ResidualConfig

T = TypeVar("T")


class Ops(Protocol[T]):
    """The operations that bodies are written in. Values are feature maps, N x C x H x W, at the input's resolution."""

    def conv(self, name: str, x: T, out: int, *, size: int = 3, quantize: bool = True, identity: bool = False) -> T:
        """A convolution with bias, zero padding and stride 1, to `out` channels.

        name: of its weights in a model file. quantize: whether int8 inference rounds its input and its kernels.
        identity: train it with an identity branch, which is merged into the kernel for inference.
        """
        ...

    def act(self, x: T, slope: float) -> T:
        """Leaky ReLU; slope 0 is ReLU. May overwrite `x`, which must be the output of a convolution."""
        ...

    def add(self, x: T, y: T, *, quantize: bool = False) -> T:
        """The sum. quantize: int8 inference takes `x` as the convolution before saw it, rounded, so the sum stays in int8."""
        ...

    def mul(self, x: T, y: T) -> T:
        """The product of elements."""
        ...

    def upsample(self, detail: T, lr: T, scale: int) -> T:
        """Pixel shuffle of `detail` (3 scale^2 channels), plus `lr` upsampled bilinearly: the output of the network."""
        ...


def compact(ops: Ops[T], c: CompactConfig, lr: T) -> T:
    """A stack of plain 3x3 convolutions, which run closest to the peak of a CPU."""
    x = shallow = ops.act(ops.conv("head", lr, c.channels, quantize=False), c.slope)
    for i in range(c.blocks):
        x = ops.act(ops.conv(f"body.{i}", x, c.channels, identity=True), c.slope)
    return ops.upsample(ops.conv("tail", ops.add(x, shallow), 3 * c.scale**2), lr, c.scale)


def residual(ops: Ops[T], c: ResidualConfig, lr: T) -> T:
    """Residual blocks without normalization (after EDSR, Lim et al. 2017, sec. 3.1), no activation after the sum."""
    x = shallow = ops.act(ops.conv("head", lr, c.channels, quantize=False), c.slope)
    for i in range(c.blocks):
        inner = ops.act(ops.conv(f"body.{i}.conv1", x, c.channels), c.slope)
        x = ops.add(x, ops.conv(f"body.{i}.conv2", inner, c.channels), quantize=True)
    return ops.upsample(ops.conv("tail", ops.add(shallow, x, quantize=True), 3 * c.scale**2), lr, c.scale)


Body = Callable[[Ops[Any], Any, Any], Any]
BODIES: dict[type[GeneratorConfig], Body] = {CompactConfig: compact, ResidualConfig: residual}
"""The body of each config. Generators that are missing here exist as torch modules only."""

BYTES_PER_LIVE_CHANNEL = 14
"""Memory per pixel of the input and live channel: float32, and what the libraries that run a network need besides."""


@dataclass(frozen=True)
class ConvShape:
    """A convolution in a body. scale_in: the scale groups of its input, with exponents (see `Shapes.scale_groups`)."""

    inputs: int
    outputs: int
    size: int
    quantize: bool
    identity: bool
    scale_in: Counter[str]

    @property
    def parameters(self) -> int:
        return (self.inputs * self.size**2 + 1) * self.outputs


@dataclass(frozen=True)
class _Value:
    """A feature map: its channels, the radius of its receptive field, and the convolutions that give its int8 scale."""

    channels: int
    radius: int
    scale: Counter[str]


class Shapes:
    """Interprets a body without computing it.

    convs: every convolution by name, in order. halo: radius of the receptive field, in pixels of the input. parameters: of
    the fused network. operations: multiply-adds per pixel of the input. bytes_per_pixel: memory per pixel of the input,
    at most.
    """

    def __init__(self) -> None:
        self.convs: dict[str, ConvShape] = {}
        self.halo = 0
        self._parent: dict[str, str] = {}
        self._pinned: set[str] = set()
        self._most_channels = 0

    @staticmethod
    def input() -> _Value:
        """The LR image."""
        return _Value(3, 0, Counter())

    @property
    def parameters(self) -> int:
        return sum(conv.parameters for conv in self.convs.values())

    @property
    def operations(self) -> int:
        return sum(conv.inputs * conv.outputs * conv.size**2 for conv in self.convs.values())

    @property
    def bytes_per_pixel(self) -> int:
        # a block holds its input, its output, and the head's output, which most bodies add at the end
        return BYTES_PER_LIVE_CHANNEL * 3 * self._most_channels

    def conv(self, name: str, x: _Value, out: int, *, size: int = 3, quantize: bool = True, identity: bool = False) -> _Value:
        self.convs[name] = ConvShape(x.channels, out, size, quantize, identity, x.scale)
        self._most_channels = max(self._most_channels, out)
        return _Value(out, x.radius + size // 2, Counter([name]))

    def act(self, x: _Value, _slope: float) -> _Value:
        return x

    def add(self, x: _Value, y: _Value, *, quantize: bool = False) -> _Value:  # noqa: ARG002
        if list(x.scale.values()) == list(y.scale.values()) == [1]:
            roots = {self.group(conv) for conv in x.scale | y.scale}
            first, *others = sorted(roots, key=list(self.convs).index)
            self._parent |= dict.fromkeys(others, first)
        else:
            self._pinned |= x.scale.keys() | y.scale.keys()
        return _Value(x.channels, max(x.radius, y.radius), x.scale)

    def mul(self, x: _Value, y: _Value) -> _Value:
        return _Value(x.channels, max(x.radius, y.radius), x.scale + y.scale)

    def upsample(self, detail: _Value, _lr: _Value, _scale: int) -> _Value:
        self._pinned |= detail.scale.keys()
        return _Value(3, max(detail.radius, 1), Counter())

    def group(self, conv: str) -> str:
        """The first convolution of the scale group that the output of `conv` belongs to."""
        while conv in self._parent:
            conv = self._parent[conv]
        return conv

    @property
    def scale_groups(self) -> dict[str, int]:
        """The groups that int8 may scale, by their first convolution, with their channels.

        Channels of feature maps that are added share one scale. Leaky ReLU does not change scales; a product has the
        product of both. The output of the network is not scaled.
        """
        pinned = {self.group(conv) for conv in self._pinned}
        return {conv: shape.outputs for conv, shape in self.convs.items() if self.group(conv) == conv and conv not in pinned}

    def input_groups(self, conv: str) -> Counter[str]:
        """The scalable groups whose scales, each to its exponent, multiply to the scale of what `conv` takes in."""
        groups: Counter[str] = Counter()
        for source, exponent in self.convs[conv].scale_in.items():
            groups[self.group(source)] += exponent
        return Counter({group: exponent for group, exponent in groups.items() if group in self.scale_groups})


@lru_cache
def shapes_of(config: GeneratorConfig) -> Shapes:
    """The shapes of a config's body. Raises KeyError for a generator that has none in `BODIES`."""
    shapes = Shapes()
    shapes.halo = BODIES[type(config)](shapes, config, shapes.input()).radius
    return shapes
