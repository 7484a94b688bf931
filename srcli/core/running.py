"""A generator behind the seam that `srcli.upscaling` calls: arrays in, arrays out."""

from __future__ import annotations

import numpy as np
import torch

from srcli.core.generators import Generator


class TorchEnlarger:
    """Runs a generator in torch, in float32, on one device."""

    def __init__(self, generator: Generator, device: torch.device) -> None:
        self.device = device
        self.generator = generator.folded().eval().requires_grad_(False)
        self.generator.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.scale = generator.scale
        self.halo = generator.halo

    @torch.inference_mode()
    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """3 x H x W to 3 x sH x sW, float32, RGB in and around [0, 1]."""
        batch = torch.from_numpy(np.ascontiguousarray(lr))[None].to(self.device, memory_format=torch.channels_last)
        sr: np.ndarray = self.generator(batch)[0].float().cpu().numpy()
        return sr
