"""Metrics: (sr, hr) in, one number per image out.

`sr` and `hr` are N x 3 x H x W, RGB in [0, 1]. Published super-resolution results are measured on luma with `scale` pixels
cropped from each border; `on_luma` does both.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from srcli.errors import SrcliError


def luma(image: Tensor) -> Tensor:
    """Luma of ITU-R BT.601 in studio range, N x 1 x H x W, 16/255 to 235/255, like MATLAB's rgb2ycbcr."""
    red, green, blue = image.unbind(dim=1)
    return (16 / 255 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255).unsqueeze(1)


def on_luma(sr: Tensor, hr: Tensor, *, border: int) -> tuple[Tensor, Tensor]:
    """The luma of both images with `border` pixels cropped from each side. Raises SrcliError if nothing would be left."""
    if min(hr.shape[-2:]) <= 2 * border:
        raise SrcliError(
            f"The image is {hr.shape[-1]}x{hr.shape[-2]} pixels; nothing is left after cropping {border} from each side."
        )
    inner = slice(border, -border if border else None)
    return luma(sr)[..., inner, inner], luma(hr)[..., inner, inner]


def psnr(sr: Tensor, hr: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB for a peak of 1, per image. Infinite for equal images."""
    mse = (sr.double() - hr.double()).square().flatten(1).mean(dim=1)
    return -10 * torch.log10(mse)


WINDOW = 11
"""Side of the window of SSIM in pixels."""


def ssim(sr: Tensor, hr: Tensor) -> Tensor:
    """Structural similarity per image, 1 for equal images (Wang et al. 2004).

    The mean over channels and over all windows inside the image.
    Raises SrcliError if a side is shorter than the window.
    """
    return ssim_map(sr, hr).double().flatten(1).mean(dim=1)


def ssim_map(sr: Tensor, hr: Tensor) -> Tensor:
    """Structural similarity of every window: Gaussian, 11 pixels, sigma 1.5; N x C x H-10 x W-10."""
    if min(hr.shape[-2:]) < WINDOW:
        raise SrcliError(f"The image is {hr.shape[-1]}x{hr.shape[-2]} pixels; SSIM needs at least {WINDOW}x{WINDOW}.")
    # variances do not depend on the zero point, and around the middle of the range float32 is precise enough for them
    sr, hr = sr - 0.5, hr - 0.5
    line = torch.tensor(
        [math.exp(-((i - WINDOW // 2) ** 2) / (2 * 1.5**2)) for i in range(WINDOW)], dtype=sr.dtype, device=sr.device
    )
    line /= line.sum()
    channels = sr.shape[1]

    def blur(x: Tensor) -> Tensor:
        rows = F.conv2d(x, line.view(1, 1, 1, WINDOW).expand(channels, 1, 1, WINDOW), groups=channels)
        return F.conv2d(rows, line.view(1, 1, WINDOW, 1).expand(channels, 1, WINDOW, 1), groups=channels)

    mean_sr, mean_hr = blur(sr), blur(hr)
    var_sr, var_hr = blur(sr * sr) - mean_sr**2, blur(hr * hr) - mean_hr**2
    covariance = blur(sr * hr) - mean_sr * mean_hr
    c1, c2 = 0.01**2, 0.03**2
    product, squares = (mean_sr + 0.5) * (mean_hr + 0.5), (mean_sr + 0.5) ** 2 + (mean_hr + 0.5) ** 2
    similarity: Tensor = ((2 * product + c1) * (2 * covariance + c2)) / ((squares + c1) * (var_sr + var_hr + c2))
    return similarity
