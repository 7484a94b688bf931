"""Degradation: hr in, the lr that a generator is to enlarge out."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

MARGIN = 2
"""lr pixels at the rim of a reduced crop that feel the crop's border: half the width of the bicubic kernel."""


def bicubic(hr: Tensor, scale: int) -> Tensor:
    """Reduce N x 3 x sH x sW to N x 3 x H x W with the antialiased bicubic kernel, a = -0.5.

    Rounded to 256 levels and clamped to [0, 1], as the small pictures that people have are. The kernel is that of Pillow's
    BICUBIC and of MATLAB's imresize, with which the field's benchmarks are made.
    """
    lr = F.interpolate(hr, scale_factor=1 / scale, mode="bicubic", antialias=True, recompute_scale_factor=False)
    return (lr * 255).round().clamp(0, 255) / 255
