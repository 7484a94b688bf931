"""Measures of perceptual quality: ST-LPIPS, the grid and the weave that a pixel shuffle can leave, and ghosts beside edges."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision_cpu import declare_operators

from srcli.core.metrics import luma

WINDOW = 48
"""Side of the windows of `grid`, in pixels: a multiple of the scales 2, 3, 4 and 8."""

LEAST = 1e-2
"""Energy that is added to both: that of rounding to 256 levels in a window without texture."""


def load_stlpips() -> Callable[[Tensor, Tensor], float]:
    """ST-LPIPS (Ghildyal and Liu 2022), alex: (sr, hr), 1 x 3 x H x W in [0, 1], to a distance; lower is better."""
    declare_operators()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from stlpips_pytorch.stlpips import LPIPS
    except ImportError as error:
        raise SystemExit(f"ST-LPIPS is not installed ({error}): pip install stlpips_pytorch") from None
    network = LPIPS(net="alex", variant="shift_tolerant", verbose=False).eval()

    def distance(sr: Tensor, hr: Tensor) -> float:
        return float(network(2 * sr - 1, 2 * hr - 1))

    return distance


def grid(pairs: list[tuple[Tensor, Tensor]], scale: int) -> dict[str, float]:
    """Amplitude of sr over that of hr at the frequencies that repeat every `scale` pixels, on flat and on textured windows.

    On luma, in Hann windows of 48 pixels with their mean removed; the geometric mean over windows. The quarter of all windows
    with the lowest variance of hr is flat, the quarter with the highest is textured. 1 is the level of the original; a smooth
    image is below it, and a grid far above.
    """
    energies: list[Tensor] = []
    for sr, hr in pairs:
        windows = torch.cat([_windows(luma(image)) for image in (sr, hr)])  # 2 x W x 48 x 48
        energies.append(torch.cat([_grid_energy(windows, scale), windows[1:].var(dim=(2, 3))]))
    sr_energy, hr_energy, variance = torch.cat(energies, dim=1)
    order = variance.argsort()
    quarter = len(order) // 4
    return {
        name: math.exp(((sr_energy[chosen] + LEAST).log() - (hr_energy[chosen] + LEAST).log()).mean().item() / 2)
        for name, chosen in (("grid_flat", order[:quarter]), ("grid_textured", order[-quarter:]))
    }


def spectral_peak(image: Tensor, scale: int) -> float:
    """How far luma stands out at multiples of 1/scale cycles per pixel: 1 for photographs, more with a weave.

    1 x 3 x H x W. The power of the first difference, along rows and along columns, at such a frequency, compared with the
    median of the ten frequencies next to it but one; the geometric mean. Lines are cut to a multiple of 8 scale pixels.
    """
    excess: list[Tensor] = []
    for lines in (luma(image)[0, 0], luma(image)[0, 0].T):
        length = lines.shape[1] // (8 * scale) * 8 * scale
        if length < 16 * scale:
            continue
        lines = lines[:, :length]
        power = torch.fft.rfft(lines - lines.roll(1, dims=1), dim=1).abs().square().mean(dim=0)
        for multiple in range(1, scale // 2 + 1):
            peak = length * multiple // scale
            places = [peak + sign * away for away in range(2, 7) for sign in (-1, 1) if peak + sign * away < len(power)]
            excess.append((power[peak] / power[places].median()).log())
    return math.exp(torch.stack(excess).mean().item())


def ghost(sr: Tensor, hr: Tensor, scale: int) -> float:
    """The largest error of luma, of 255, on flat areas: where hr is the same over `scale` pixels around. 0 if there are none.

    1 x 3 x H x W, of a drawing. There, a network trained on photographs alone leaves faint lines beside straight edges.
    """
    window = {"kernel_size": 2 * scale + 1, "stride": 1, "padding": scale}
    spread = F.max_pool2d(hr, **window) + F.max_pool2d(-hr, **window)
    flat = spread.amax(dim=1, keepdim=True) <= 2 / 255
    error = (luma(sr) - luma(hr)).abs()[flat]
    return 255 * error.max().item() if len(error) else 0.0


def _windows(image: Tensor) -> Tensor:
    columns = F.unfold(image, WINDOW, stride=WINDOW // 2)  # 1 x 48 48 x W
    return columns[0].T.reshape(1, -1, WINDOW, WINDOW)


def _grid_energy(windows: Tensor, scale: int) -> Tensor:
    hann = torch.hann_window(WINDOW)
    centered = (windows - windows.mean(dim=(2, 3), keepdim=True)) * hann * hann[:, None]
    power = torch.fft.fft2(centered).abs().square()[..., :: WINDOW // scale, :: WINDOW // scale].clone()
    power[..., 0, 0] = 0
    return power.sum(dim=(2, 3))
