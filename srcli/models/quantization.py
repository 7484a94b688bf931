"""Calibration for int8 inference: a generator and LR images in, activation ranges and channel scales out."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from srcli.core.graph import shapes_of
from srcli.core.networks import BodyGenerator, Generator, TorchOps

LEVELS = 255
"""Steps between the lowest and the highest of 256 levels."""

OUTLIER_FRACTION = 1e-4
"""Fraction of a channel's largest values that do not count for its scale."""

EQUALIZATION_EXPONENT = 0.7
"""How far channel scales follow the magnitudes of the channels. 1 would make all activations alike, and the kernels as
different as possible."""

CLIP_RATIOS = tuple(ratio / 20 for ratio in range(12, 21))
"""Fractions of the lowest and of the highest value that are tried as ends of a range. Clipping more would show at edges."""

SAMPLE = 2**17
"""Values that a range is chosen by."""


@torch.no_grad()
def calibrate(generator: Generator, lr: Tensor) -> dict[str, Tensor]:
    """The tensors that a model file needs for int8 inference. Empty for a generator without a body in `srcli.core.graph`.

    lr: N x 3 x H x W, in [0, 1], from which activations are measured.

    `int8.CONV.scale`: C, the scale of each output channel, for the first convolution of each scale group. Channels differ in
    magnitude and share one range, so each is divided by a scale of its own, and the kernels before and after make up for it
    (cross-layer equalization, Nagel et al. 2019, "Data-Free Quantization", sec. 4.1; here by activations, not by weights).
    `int8.CONV.range`: the lowest and the highest value of the scaled input of each quantized convolution, chosen for the least
    squared error. Zero is a level.
    """
    if not isinstance(generator, BodyGenerator):
        return {}
    fused = generator.fused().float()
    magnitudes = _Magnitudes(fused)
    fused.interpret(magnitudes, lr.float())
    scales = {group: _channel_scales(magnitude) for group, magnitude in magnitudes.groups.items()}
    ranges = _Ranges(fused, scales)
    fused.interpret(ranges, lr.float())
    return {f"int8.{group}.scale": scale for group, scale in scales.items()} | {
        f"int8.{conv}.range": ends for conv, ends in ranges.convs.items()
    }


class _Calibration(TorchOps):
    """Runs a fused body and observes the input of each quantized convolution."""

    def __init__(self, generator: BodyGenerator) -> None:
        super().__init__(generator)
        self.shapes = shapes_of(generator.config)

    def conv(self, name: str, x: Tensor, out: int, *, size: int = 3, quantize: bool = True, identity: bool = False) -> Tensor:
        if quantize:
            self.observe(name, x)
        return super().conv(name, x, out, size=size, quantize=quantize, identity=identity)

    def observe(self, conv: str, x: Tensor) -> None:
        raise NotImplementedError


class _Magnitudes(_Calibration):
    """groups: C, the magnitude of each channel of a scale group, the largest of all inputs that have the group's scale."""

    def __init__(self, generator: BodyGenerator) -> None:
        super().__init__(generator)
        self.groups = {group: torch.zeros(channels) for group, channels in self.shapes.scale_groups.items()}

    def observe(self, conv: str, x: Tensor) -> None:
        groups = self.shapes.input_groups(conv)
        if sum(groups.values()) == 1:
            (group,) = groups
            self.groups[group] = torch.maximum(self.groups[group].to(x.device), _magnitude(x))


class _Ranges(_Calibration):
    """convs: the range of the scaled input of each convolution."""

    def __init__(self, generator: BodyGenerator, scales: dict[str, Tensor]) -> None:
        super().__init__(generator)
        self.scales = scales
        self.convs: dict[str, Tensor] = {}

    def observe(self, conv: str, x: Tensor) -> None:
        groups = self.shapes.input_groups(conv)
        scale = prod((self.scales[group] ** exponent for group, exponent in groups.items()), start=torch.ones(()).to(x.device))
        self.convs[conv] = _range(x / scale.view(-1, 1, 1))


def _magnitude(x: Tensor) -> Tensor:
    """The magnitude of each channel of N x C x H x W, without outliers: C."""
    values = x.abs().transpose(0, 1).flatten(1)  # C x P
    rank = max(1, int((1 - OUTLIER_FRACTION) * values.shape[1]))
    return values.kthvalue(rank, dim=1).values


def _channel_scales(magnitude: Tensor) -> Tensor:
    """The scale of each channel, 1 for the largest: C to C. A group that no convolution takes alone keeps its scale."""
    if not magnitude.any():
        return torch.ones_like(magnitude)
    relative = (magnitude / magnitude.max()).clamp(min=1e-3)
    return relative.pow(EQUALIZATION_EXPONENT)


def _range(x: Tensor) -> Tensor:
    """The lowest and the highest of 256 levels, one of which is 0, that represent x with the least squared error."""
    lowest, highest = x.min().clamp(max=0), x.max().clamp(min=1e-6)
    values = x.flatten()
    values = values[:: -(-len(values) // SAMPLE)]
    candidates = [_aligned(low * lowest, high * highest) for low in CLIP_RATIOS for high in CLIP_RATIOS]
    errors = torch.stack([(fake_quantize(values, *ends) - values).square().mean() for ends in candidates])
    return torch.stack(candidates[int(errors.argmin())])


def _aligned(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The range shifted so that 0 is a level."""
    step = (high - low) / LEVELS
    zero = (-low / step).round()
    return -zero * step, (LEVELS - zero) * step


def fake_quantize(values: Tensor, low: Tensor, high: Tensor, levels: int = LEVELS) -> Tensor:
    """The values rounded to `levels + 1` equally spaced ones from low to high."""
    step = (high - low) / levels
    return ((values - low) / step).round().clamp(0, levels) * step + low
