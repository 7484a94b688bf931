"""The backend that runs a network with torch: arrays in, arrays out."""

from __future__ import annotations

from threading import Lock

import numpy as np
import torch
from torch import nn

from srcli.core.device import inference_dtype
from srcli.errors import NonFiniteOutputError


class TorchBackend:
    """Runs a network (N x 3 x H x W to N x 3 x sH x sW) on one device.

    Uses float16 (autocast) where that is faster. If the output is not finite, it is computed again in float32, and so is
    everything after it, as a network that overflows float16 once will do so again.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        *,
        scale: int,
        halo: int,
        tile_multiple: int = 1,
        bytes_per_pixel: int = 4096,
        dtype: torch.dtype | None = None,
        note: str = "",
    ) -> None:
        """dtype: None for the device's default (`inference_dtype`). note: appended to the description."""
        self.device = device
        self.network = network.eval().requires_grad_(False)
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.scale = scale
        self.halo = halo
        self.tile_multiple = tile_multiple
        self.bytes_per_pixel = bytes_per_pixel
        # measured now: torch keeps the memory of a tile, so later it would seem to be in use
        self.device_free_bytes: int | None = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
        self.dtype = dtype or inference_dtype(device)
        self.note = note
        self._one_at_a_time = Lock()

    @property
    def description(self) -> str:
        name = f", {torch.cuda.get_device_name(self.device)}" if self.device.type == "cuda" else ""
        precision = "fp32" if self.dtype == torch.float32 else "fp16" if self.dtype == torch.float16 else "bf16"
        return f"{self.device}{name} (torch, {precision}{self.note})"

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """3 x H x W to 3 x sH x sW, float32, RGB in and around [0, 1].

        Raises MemoryError, and NonFiniteOutputError where the weights make numbers that are none.
        """
        try:
            with self._one_at_a_time:  # memory is planned for one tile at a time
                sr = self._run(lr, self.dtype)
                if self.dtype != torch.float32 and not sr.isfinite().all():
                    self.dtype = torch.float32
                    sr = self._run(lr, self.dtype)
                if not sr.isfinite().all():
                    raise NonFiniteOutputError
                array: np.ndarray = sr.cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise MemoryError(str(error)) from None
        except RuntimeError as error:  # raised by the allocators of the CPU and of Apple's GPUs
            if "not enough memory" in str(error) or "can't allocate memory" in str(error) or "out of memory" in str(error):
                raise MemoryError(str(error)) from None
            raise
        return array

    @torch.inference_mode()
    def _run(self, lr: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        batch = torch.from_numpy(np.ascontiguousarray(lr))[None].to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            sr: torch.Tensor = self.network(batch)[0]
        return sr.float()
