"""Generators as torch modules: lr in, sr out.

`lr` is N x 3 x H x W, RGB in [0, 1]; `sr` is N x 3 x sH x sW, RGB around [0, 1], not clamped. H and W may be any size from 1.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srcli.config import GeneratorConfig, JohnsonConfig
from srcli.core.graph import BODIES, Ops, shapes_of


class Generator(nn.Module):
    """What every generator has.

    halo: the radius of its receptive field in lr pixels: pixels farther away do not change the output. bytes_per_pixel: memory
    that inference needs per lr pixel, at most.
    """

    config: GeneratorConfig
    scale: int
    halo: int
    bytes_per_pixel: int

    def fused(self) -> Generator:
        """The same function in the form that is fastest for inference. Itself if it has only one form."""
        return self

    def can_initialize_from(self, source: Generator) -> bool:
        """Whether the weights of `source` can be the first weights of this generator. The scales may differ."""
        return replace(source.config, scale=self.scale) == self.config if type(source) is type(self) else False

    def load_fused(self, source: Generator) -> None:
        """Copy the weights of `source`, which is fused and passes `can_initialize_from`.

        If the scales differ, layers whose shape depends on the scale keep their own weights.
        """
        own = self.state_dict()
        matching = {
            name: tensor for name, tensor in source.state_dict().items() if name in own and own[name].shape == tensor.shape
        }
        self.load_state_dict(matching, strict=False)


def build_generator(config: GeneratorConfig) -> Generator:
    """A generator with fresh weights, in its training form."""
    if type(config) in BODIES:
        return BodyGenerator(config)
    return Johnson(cast(JohnsonConfig, config))


class BodyGenerator(Generator):
    """A generator made from a body of `srcli.core.graph`.

    Training starts from bilinear upsampling, as the tail's weights start at zero. Convolutions that the body marks with
    `identity` are `ReparamConv2d` in training and plain ones when fused.
    """

    def __init__(self, config: GeneratorConfig, *, fused: bool = False) -> None:
        super().__init__()
        self.config = config
        self.scale = config.scale
        shapes = shapes_of(config)
        self.halo = shapes.halo
        self.bytes_per_pixel = shapes.bytes_per_pixel
        for name, conv in shapes.convs.items():
            if conv.identity and not fused:
                self._add(name, ReparamConv2d(conv.outputs))
            else:
                self._add(name, nn.Conv2d(conv.inputs, conv.outputs, conv.size, padding=conv.size // 2))
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(cast(Tensor, self.tail.bias))

    tail: nn.Conv2d

    def _add(self, name: str, conv: nn.Module) -> None:
        """Add a submodule under a name with dots, so that the state dict has the names of the body."""
        parent: nn.Module = self
        *path, last = name.split(".")
        for part in path:
            if part not in dict(parent.named_children()):
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(last, conv)

    def forward(self, lr: Tensor) -> Tensor:
        return self.interpret(TorchOps(self), lr)

    def interpret(self, ops: Ops[Tensor], lr: Tensor) -> Tensor:
        """Run the body with other operations than `forward` does, on N x 3 x H x W."""
        sr: Tensor = BODIES[type(self.config)](ops, self.config, lr)
        return sr

    def fused(self) -> BodyGenerator:
        plain = BodyGenerator(self.config, fused=True).to(self.tail.weight.device)
        weights = self.state_dict()
        for name in shapes_of(self.config).convs:
            conv = self.get_submodule(name)
            if isinstance(conv, ReparamConv2d):
                weights[f"{name}.weight"] = conv.kernel()
                del weights[f"{name}.conv3x3"]
        plain.load_state_dict(weights)
        return plain

    def can_initialize_from(self, source: Generator) -> bool:
        """Whether `source` has the same body with as many convolutions, none of them wider. Slopes may differ, too."""
        if type(source.config) is not type(self.config):
            return False
        own, other = shapes_of(self.config).convs, shapes_of(source.config).convs
        narrower = all(other[name].outputs <= conv.outputs for name, conv in own.items() if name in other and name != "tail")
        return own.keys() == other.keys() and narrower

    @torch.no_grad()
    def load_fused(self, source: Generator) -> None:
        """As in `Generator`. A wider generator computes the same as the source at first, after Net2Net (Chen et al. 2016).

        The source's channels come first and ignore the new ones, which start with fresh weights. At another scale, the tail's
        weights are averaged over the areas of the new subpixels, so that this generator starts close to the source, resampled.
        """
        weights = source.state_dict()
        for name in shapes_of(self.config).convs:
            kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
            if name == "tail" and source.scale != self.scale:
                kernel, bias = (_resampled(weight, source.scale, self.scale) for weight in (kernel, bias))
            outputs, inputs = kernel.shape[:2]
            conv = self.get_submodule(name)
            own = conv.conv3x3 if isinstance(conv, ReparamConv2d) else cast(nn.Conv2d, conv).weight
            own[:outputs] = 0
            own[:outputs, :inputs] = kernel
            if isinstance(conv, ReparamConv2d):
                own[range(outputs), range(outputs), 1, 1] -= 1  # the identity branch adds it
            cast(Tensor, conv.bias)[:outputs] = bias


def _resampled(weight: Tensor, before: int, after: int) -> Tensor:
    """The weights of a convolution before a pixel shuffle, at another scale.

    weight: 3 before**2 x any shape, to 3 after**2 x the same shape. Each subpixel's is the mean over the area it covers.
    """
    edges, new_edges = (torch.arange(scale + 1, device=weight.device) / scale for scale in (before, after))
    overlap = torch.minimum(edges[1:], new_edges[1:, None]) - torch.maximum(edges[:-1], new_edges[:-1, None])
    shares = overlap.clamp(min=0) * after  # after x before
    subpixels = weight.reshape(3, before, before, -1)
    return torch.einsum("yi,xj,cijk->cyxk", shares, shares, subpixels).reshape(-1, *weight.shape[1:])


class TorchOps:
    """Interprets a body with the modules of a `BodyGenerator`."""

    def __init__(self, generator: BodyGenerator) -> None:
        self.generator = generator

    def conv(
        self,
        name: str,
        x: Tensor,
        out: int,  # noqa: ARG002
        *,
        size: int = 3,  # noqa: ARG002
        quantize: bool = True,  # noqa: ARG002
        identity: bool = False,  # noqa: ARG002
    ) -> Tensor:
        y: Tensor = self.generator.get_submodule(name)(x)
        return y

    def act(self, x: Tensor, slope: float) -> Tensor:
        # in place: the backward pass of a convolution does not need its output
        return F.leaky_relu(x, slope, inplace=True) if slope else F.relu(x, inplace=True)

    def add(self, x: Tensor, y: Tensor, *, quantize: bool = False) -> Tensor:  # noqa: ARG002
        return x + y

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y

    def upsample(self, detail: Tensor, lr: Tensor, scale: int) -> Tensor:
        bilinear = F.interpolate(lr, scale_factor=scale, mode="bilinear", align_corners=False)
        return F.pixel_shuffle(detail, scale) + bilinear


class ReparamConv2d(nn.Module):
    """A 3x3 convolution, C to C channels, trained as the sum of a 3x3 branch and an identity branch.

    The branches are linear and without normalization, so their kernels are added rather than their outputs, which makes
    training hardly slower than with one kernel. After RepVGG (Ding et al. 2021) and ECBSR (Zhang et al. 2021), which have more
    branches; with Muon, more branches gave no gain.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(9 * channels) / 2  # half of PyTorch's default: the identity branch carries the signal
        self.conv3x3 = nn.Parameter(torch.empty(channels, channels, 3, 3).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(channels))
        identity = torch.zeros(channels, channels, 3, 3)
        identity[:, :, 1, 1] = torch.eye(channels)
        self.register_buffer("identity", identity, persistent=False)

    identity: Tensor

    def kernel(self) -> Tensor:
        """The merged kernel, C x C x 3 x 3."""
        return self.identity + self.conv3x3

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel(), self.bias, padding=1)


class Johnson(Generator):
    """The super-resolution network of Johnson et al. 2016 (sec. 3.1 and supplement): 9x9, residual blocks, x2 steps, 9x9.

    Differs from the paper: each step is nearest-neighbor upsampling and a convolution, where the paper has a convolution of
    stride 1/2, which leaves a checkerboard (Odena et al. 2016); x3 is one step of three; the scaled tanh ends in [0, 1].
    """

    def __init__(self, config: JohnsonConfig) -> None:
        super().__init__()
        self.config = config
        self.scale = config.scale
        channels = config.channels
        factors = [3] if self.scale == 3 else [2] * int(math.log2(self.scale))
        self.head = _conv_norm(3, channels, 9)
        self.body = nn.Sequential(*(ResidualBlock(channels) for _ in range(config.blocks)))
        self.up = nn.Sequential(
            *(
                nn.Sequential(nn.Upsample(scale_factor=factor), _conv_norm(channels, channels, 3), nn.ReLU())
                for factor in factors
            )
        )
        self.tail = nn.Conv2d(channels, 3, 9, padding=4)
        self.bytes_per_pixel = 16 * channels * self.scale**2  # four float32 per channel of the upsampled image
        steps = sum(1 / math.prod(factors[: i + 1]) for i in range(len(factors)))
        self.halo = math.ceil(4 + 2 * config.blocks + steps + 4 / self.scale) + 1

    def forward(self, lr: Tensor) -> Tensor:
        deep = self.body(F.relu(self.head(lr)))  # N x C x H x W
        sr: Tensor = self.tail(self.up(deep))  # N x 3 x sH x sW
        return (torch.tanh(sr) + 1) / 2


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalization plus the input, no ReLU after the sum (Gross and Wilber 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(_conv_norm(channels, channels, 3), nn.ReLU(), _conv_norm(channels, channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        deep: Tensor = self.convs(x)
        return x + deep


def _conv_norm(inside: int, outside: int, size: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, size, padding=size // 2, bias=False), nn.BatchNorm2d(outside))
