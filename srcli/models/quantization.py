"""A generator and small pictures in, the ranges that its activations need in 8 bits out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from srcli.config import SLOPE
from srcli.core.networks import Compact, Generator

LEVELS = 255
"""Steps between the lowest and the highest of 256 levels."""

OUTLIER_FRACTION = 1e-4
"""Share of the largest values of a channel that do not count for its unit."""

EQUALIZATION_EXPONENT = 0.7
"""How far the units follow the channels' magnitudes: 1 would make all activations alike, and kernels as unlike as can be."""

CLIP_RATIOS = tuple(share / 20 for share in range(12, 21))
"""Parts of the lowest and of the highest value that are tried as the ends of a range: more cut off would be seen at edges."""

SAMPLE = 2**17
"""Values that a range is chosen by."""


@torch.no_grad()
def calibrate(generator: Generator, lr: Tensor) -> dict[str, Tensor]:
    """What it takes to run a generator in 8 bits, learnt from lr, N x 3 x H x W: nothing for one that is not `Compact`.

    int8.channels: blocks x C, the unit of each channel of what a block takes in; what the tail takes in has the first block's.
    Channels differ in magnitude, and one range has to serve all of them, so they are measured in units of their own, which
    the kernels before and after make up for (cross-layer equalisation, Nagel et al. 2019, "Data-Free Quantization", sec. 4.1;
    here by activations in the place of weights).
    int8.ranges: blocks + 1 x 2, lowest and highest value in those units of what each block and the tail take in, as give the
    least squared error; 0 is a level.
    """
    if not isinstance(generator, Compact):
        return {}
    plain = generator.fused().float()
    shallow = F.leaky_relu(plain.head(lr.float()), SLOPE)  # N x C x H x W
    deep = shallow
    channels: list[Tensor] = []
    ranges: list[Tensor] = []
    for number, conv in enumerate(plain.body):
        if number:
            channels.append(_channel_scales(deep))
            ranges.append(_range(deep / channels[-1]))
        deep = F.leaky_relu(conv(deep), SLOPE)  # N x C x H x W
    both = deep + shallow
    shared = _channel_scales(both)  # as the sum goes over channels of one unit
    channels.insert(0, shared)
    ranges = [_range(shallow / shared), *ranges, _range(both / shared)]
    return {"int8.channels": torch.stack(channels).flatten(1), "int8.ranges": torch.stack(ranges)}


def _channel_scales(x: Tensor) -> Tensor:
    """The unit of each channel of N x C x H x W, 1 for the largest: 1 x C x 1 x 1."""
    values = x.abs().transpose(0, 1).flatten(1)  # C x P
    place = max(1, int((1 - OUTLIER_FRACTION) * values.shape[1]))
    magnitudes = values.kthvalue(place, dim=1).values.clamp(min=1e-12)
    relative = (magnitudes / magnitudes.max()).clamp(min=1e-3)
    return relative.pow(EQUALIZATION_EXPONENT).view(1, -1, 1, 1)


def _range(x: Tensor) -> Tensor:
    """The lowest and the highest of 256 levels, one of them 0, that keep x best."""
    lowest, highest = x.min().clamp(max=0), x.max().clamp(min=1e-6)
    values = x.flatten()
    values = values[:: -(-len(values) // SAMPLE)]
    candidates = [_levels(low * lowest, high * highest) for low in CLIP_RATIOS for high in CLIP_RATIOS]
    errors = torch.stack([(_rounded(values, *ends) - values).square().mean() for ends in candidates])
    return torch.stack(candidates[int(errors.argmin())])


def _levels(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The range moved so that 0 is a level."""
    step = (high - low) / LEVELS
    zero = (-low / step).round()
    return -zero * step, (LEVELS - zero) * step


def _rounded(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    step = (high - low) / LEVELS
    return ((values - low) / step).round().clamp(0, LEVELS) * step + low
