"""Generators: lr in, sr out.

`lr` is N x 3 x H x W, RGB in [0, 1]; `sr` is N x 3 x sH x sW, RGB around [0, 1] and not clamped. Any H and W from 1 up.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srcli.config import SLOPE, CompactConfig, GeneratorConfig, JohnsonConfig


class Generator(nn.Module):
    """What every generator has: its `scale`, and its `halo`.

    halo: how many lr pixels beyond a place can change what the generator makes there (the radius of its receptive field).
    """

    config: GeneratorConfig
    scale: int
    halo: int

    def fused(self) -> Generator:
        """The same function in the form that is fastest to use; itself where training and use have one form."""
        return self

    def load_fused(self, source: Generator) -> None:
        """Take over what `source`, folded and of sizes that `settings.can_initialize_from` allows, computes.

        From another scale, all but what depends on it.
        """
        mine = self.state_dict()
        fitting = {
            name: tensor for name, tensor in source.state_dict().items() if name in mine and mine[name].shape == tensor.shape
        }
        self.load_state_dict(fitting, strict=False)


def build_generator(config: GeneratorConfig) -> Generator:
    """A generator with fresh weights, in the form that is trained."""
    match config:
        case CompactConfig():
            return Compact(config)
        case JohnsonConfig():
            return Johnson(config)


class Compact(Generator):
    """Plain 3x3 convolutions in low-resolution space, pixel shuffle, and the input enlarged bilinearly added at the end.

    Made for the time it takes on a CPU, where plain 3x3 convolutions come nearest to the peak of the processor. Each inner
    convolution is trained as the sum of two parallel branches and used as one (after RepVGG, Ding et al. 2021, and ECBSR,
    Zhang et al. 2021, which have more; with Muon, more did not help). Branches are linear and without normalisation, so the
    sum is taken over kernels, not over pictures: training costs hardly more than the single convolution does.
    """

    def __init__(self, config: CompactConfig, *, branches: bool = True) -> None:
        super().__init__()
        self.config: CompactConfig = config
        self.scale = config.scale
        channels = config.channels
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.ModuleList(
            ReparamConv2d(channels) if branches else nn.Conv2d(channels, channels, 3, padding=1) for _ in range(config.blocks)
        )
        self.tail = nn.Conv2d(channels, 3 * self.scale**2, 3, padding=1)
        self.halo = config.halo
        nn.init.zeros_(self.tail.weight)  # so that training starts from the bilinear enlargement
        nn.init.zeros_(self.tail.bias)  # type: ignore[arg-type]

    def forward(self, lr: Tensor) -> Tensor:
        shallow = F.leaky_relu(self.head(lr), SLOPE)  # N x C x H x W
        deep = shallow
        for conv in self.body:
            deep = F.leaky_relu(conv(deep), SLOPE, inplace=True)  # N x C x H x W
        detail = F.pixel_shuffle(self.tail(deep + shallow), self.scale)  # N x 3 x sH x sW
        return detail + F.interpolate(lr, scale_factor=self.scale, mode="bilinear", align_corners=False)

    def fused(self) -> Compact:
        """The same function with one plain convolution in the place of each sum of branches."""
        plain = Compact(self.config, branches=False).to(self.head.weight.device)
        plain.head.load_state_dict(self.head.state_dict())
        plain.tail.load_state_dict(self.tail.state_dict())
        for conv, source in zip(plain.body, self.body, strict=True):
            conv.load_state_dict(
                {"weight": source.kernel(), "bias": source.bias} if isinstance(source, ReparamConv2d) else source.state_dict()
            )
        return plain

    def load_fused(self, source: Generator) -> None:
        """As in `Generator`. What is wider than the source computes the same at first, after Net2Net (Chen et al. 2016).

        The source's channels come first and take nothing from those that are new, which begin with fresh weights.
        """
        assert isinstance(source, Compact)
        known = source.config.channels
        mine, theirs = self.state_dict(), source.state_dict()  # of tensors that are the weights themselves
        for name in ("head.weight", "head.bias"):
            mine[name][:known] = theirs[name]
        for number in range(self.config.blocks):
            conv = mine[f"body.{number}.conv3x3"]
            conv[:known] = 0
            conv[:known, :known] = theirs[f"body.{number}.weight"]
            conv[range(known), range(known), 1, 1] -= 1  # which the identity makes up for
            mine[f"body.{number}.bias"][:known] = theirs[f"body.{number}.bias"]
        if source.scale == self.scale:
            mine["tail.weight"][:, :known] = theirs["tail.weight"]
            mine["tail.bias"].copy_(theirs["tail.bias"])


class ReparamConv2d(nn.Module):
    """A 3x3 convolution, C to C channels, as the sum of two branches: a 3x3 kernel, and the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(9 * channels) / 2  # half of what PyTorch begins with: the identity carries the signal
        self.conv3x3 = nn.Parameter(torch.empty(channels, channels, 3, 3).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(channels))
        identity = torch.zeros(channels, channels, 3, 3)
        identity[:, :, 1, 1] = torch.eye(channels)
        self.register_buffer("identity", identity, persistent=False)

    identity: Tensor

    def kernel(self) -> Tensor:
        """The kernel of the sum of the branches, C x C x 3 x 3."""
        return self.identity + self.conv3x3

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel(), self.bias, padding=1)


class Johnson(Generator):
    """The super-resolution network of Johnson et al. 2016 (sec. 3.1 and supplement): 9x9, residual blocks, x2 steps, 9x9.

    Differs from the paper: the steps are nearest-neighbour enlargement and a convolution where the paper has a convolution
    of stride 1/2, which leaves a checkerboard (Odena et al. 2016); x3 is one step of three; the scaled tanh ends in [0, 1].
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
        steps = sum(1 / math.prod(factors[: i + 1]) for i in range(len(factors)))
        self.halo = math.ceil(4 + 2 * config.blocks + steps + 4 / self.scale) + 1

    def forward(self, lr: Tensor) -> Tensor:
        deep = self.body(F.relu(self.head(lr)))  # N x C x H x W
        sr: Tensor = self.tail(self.up(deep))  # N x 3 x sH x sW
        return (torch.tanh(sr) + 1) / 2


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation beside an identity, no ReLU after the sum (Gross and Wilber 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(_conv_norm(channels, channels, 3), nn.ReLU(), _conv_norm(channels, channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        deep: Tensor = self.convs(x)
        return x + deep


def _conv_norm(inside: int, outside: int, size: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, size, padding=size // 2, bias=False), nn.BatchNorm2d(outside))
