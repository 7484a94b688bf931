"""How long do published networks take in OpenVINO, in which srcli's own models run?

    python benchmarks/peers.py [--rounds 9]

The networks have random weights, as time does not depend on them; RLFN, IMDN and FSRCNN are written here after their papers,
SAFMN and SPAN come from spandrel. Prints the number of weights, to be compared with that of the published file (SPAN has more
in training, which are folded), and t (see upscale_speed.py) in torch and in OpenVINO, both in float32, measured in
alternation. `t_openvino` in peers.csv comes from here.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import openvino
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision_cpu import declare_operators
from upscale_speed import HEIGHT, WIDTH, in_turn, ratio, unit

SCALE = 4


def conv(inputs: int, outputs: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


def upsampler(channels: int) -> nn.Sequential:
    return nn.Sequential(conv(channels, 3 * SCALE**2), nn.PixelShuffle(SCALE))


class SpatialAttention(nn.Module):
    """The "enhanced spatial attention" of RFANet (Liu et al. 2020), as in RLFN."""

    def __init__(self, channels: int, inner: int = 16) -> None:
        super().__init__()
        self.narrow, self.skip, self.wide = conv(channels, inner, 1), conv(inner, inner, 1), conv(inner, channels, 1)
        self.down, self.middle = nn.Conv2d(inner, inner, 3, stride=2), conv(inner, inner)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.narrow(x)
        coarse = self.middle(F.max_pool2d(self.down(narrow), 7, 3))
        coarse = F.interpolate(coarse, size=x.shape[-2:], mode="bilinear", align_corners=False)
        gated: Tensor = x * torch.sigmoid(self.wide(coarse + self.skip(narrow)))
        return gated


class RLFNBlock(nn.Module):
    def __init__(self, channels: int, middle: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([conv(channels, middle), conv(middle, middle), conv(middle, channels)])
        self.last, self.attention = conv(channels, channels, 1), SpatialAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = x
        for each in self.convs:
            inner = F.leaky_relu(each(inner), 0.05)
        gated: Tensor = self.attention(self.last(inner + x))
        return gated


class RLFN(nn.Module):
    """Residual local feature network (Kong et al. 2022)."""

    def __init__(self, channels: int, middle: int, blocks: int) -> None:
        super().__init__()
        self.head, self.blocks = conv(3, channels), nn.Sequential(*(RLFNBlock(channels, middle) for _ in range(blocks)))
        self.last, self.upsampler = conv(channels, channels), upsampler(channels)

    def forward(self, lr: Tensor) -> Tensor:
        shallow = self.head(lr)
        sr: Tensor = self.upsampler(self.last(self.blocks(shallow)) + shallow)
        return sr


class IMDNBlock(nn.Module):
    """Information multi-distillation block: a quarter of the channels is kept after each convolution."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        kept = channels // 4
        self.kept = kept
        self.convs = nn.ModuleList([conv(channels, channels), *(conv(channels - kept, channels) for _ in range(2))])
        self.rest, self.last = conv(channels - kept, kept), conv(channels, channels, 1)
        self.attention = nn.Sequential(conv(channels, 4, 1), nn.ReLU(), conv(4, channels, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        parts, inner = [], x
        for each in self.convs:
            inner = F.leaky_relu(each(inner), 0.05)
            parts.append(inner[:, : self.kept])
            inner = inner[:, self.kept :]
        joined = torch.cat([*parts, self.rest(inner)], dim=1)
        mean = joined.mean(dim=(2, 3), keepdim=True)
        contrast = (joined - mean).square().mean(dim=(2, 3), keepdim=True).sqrt() + mean
        result: Tensor = self.last(joined * self.attention(contrast)) + x
        return result


class IMDN(nn.Module):
    """Information multi-distillation network (Hui et al. 2019)."""

    def __init__(self, channels: int = 64, blocks: int = 6) -> None:
        super().__init__()
        self.head, self.blocks = conv(3, channels), nn.ModuleList(IMDNBlock(channels) for _ in range(blocks))
        self.join, self.last = conv(channels * blocks, channels, 1), conv(channels, channels)
        self.upsampler = upsampler(channels)

    def forward(self, lr: Tensor) -> Tensor:
        shallow = inner = self.head(lr)
        outputs = []
        for block in self.blocks:
            inner = block(inner)
            outputs.append(inner)
        sr: Tensor = self.upsampler(self.last(F.leaky_relu(self.join(torch.cat(outputs, dim=1)), 0.05)) + shallow)
        return sr


class FSRCNN(nn.Module):
    """Fast super-resolution by a convolutional network (Dong et al. 2016), on luma."""

    def __init__(self, channels: int = 56, inner: int = 12, blocks: int = 4) -> None:
        super().__init__()
        middle = [layer for _ in range(blocks) for layer in (conv(inner, inner), nn.PReLU(inner))]
        self.layers = nn.Sequential(
            conv(1, channels, 5),
            nn.PReLU(channels),
            conv(channels, inner, 1),
            nn.PReLU(inner),
            *middle,
            conv(inner, channels, 1),
            nn.PReLU(channels),
            nn.ConvTranspose2d(channels, 1, 9, SCALE, 4, output_padding=SCALE - 1),
        )

    def forward(self, lr: Tensor) -> Tensor:
        sr: Tensor = self.layers(lr[:, :1])
        return sr


def networks() -> dict[str, nn.Module]:
    """The networks by their name in peers.csv."""
    declare_operators()
    from spandrel.architectures.SAFMN import SAFMN
    from spandrel.architectures.SPAN import SPAN

    return {
        "FSRCNN": FSRCNN(),
        "SPAN 28": SPAN(num_in_ch=3, num_out_ch=3, feature_channels=28, upscale=SCALE, norm=False),
        "RLFN": RLFN(46, 48, 4),
        "SAFMN": SAFMN(dim=36, n_blocks=8, ffn_scale=2.0, upscaling_factor=SCALE),
        "RLFN-S": RLFN(48, 48, 6),
        "IMDN": IMDN(),
    }


def in_openvino(network: nn.Module, lr: Tensor) -> Callable[[], object]:
    model = openvino.convert_model(network, example_input=lr, input=[tuple(lr.shape)])
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    return partial(openvino.Core().compile_model(model, "CPU", settings).create_infer_request().infer, [lr.numpy()])


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    lr = torch.rand(1, 3, HEIGHT, WIDTH)
    peers = {name: network.eval() for name, network in networks().items()}
    contenders: dict[str, Callable[[], object]] = {"t": unit()}
    for name, network in peers.items():
        contenders |= {name: partial(network, lr), f"{name} in OpenVINO": in_openvino(network, lr)}
    seconds = in_turn(contenders, options.rounds)
    print("| network | weights | ms in torch | t | t in OpenVINO |\n|---|---|---|---|---|")
    for name, network in peers.items():
        its, faster = seconds[name], seconds[f"{name} in OpenVINO"]
        weights = sum(weight.numel() for weight in network.parameters())
        times = ratio(its, seconds["t"]), ratio(faster, seconds["t"])
        print(f"| {name} | {weights / 1000:.0f}K | {1000 * statistics.median(its):.0f} | {times[0]:.2f} | {times[1]:.2f} |")


if __name__ == "__main__":
    main()
