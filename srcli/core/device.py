"""Where and in which arithmetic the mathematics runs. Torch is imported only by what needs it, as that takes seconds."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from srcli.config import Precision
from srcli.errors import ConfigError, SrcliError

if TYPE_CHECKING:
    import torch


def check_device(name: str) -> None:
    """Raises ConfigError where no device has such a name."""
    kind, colon, number = name.partition(":")
    if name not in ("auto", "cpu", "cuda", "mps") and not (kind == "cuda" and colon and number.isdigit()):
        raise ConfigError(f"There is no device {name!r}. Choose auto, cpu, cuda, cuda:N or mps.")


def has_gpu_driver() -> bool:
    """Whether there are traces of a GPU that torch may be able to use: without them there is none, and no need to ask torch."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"  # MPS comes with the system
    if sys.platform == "win32":
        return Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "nvcuda.dll").exists()
    # NVIDIA's driver, Windows' in its Linux, and AMD's
    return any(Path("/dev", name).exists() for name in ("nvidiactl", "nvidia0", "dxg", "kfd"))


def is_cpu(name: str) -> bool:
    """Whether `pick_device` gives the CPU; torch is asked only where a GPU may be there. Raises as `pick_device` does."""
    check_device(name)
    if name == "cpu" or (name == "auto" and not has_gpu_driver()):
        return True
    return pick_device(name).type == "cpu"


def pick_device(name: str) -> torch.device:
    """`auto` (CUDA, then Apple's MPS, then the CPU), `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises ConfigError where the name is unknown, and SrcliError where the device is not there: what was asked for is never
    replaced silently.
    """
    check_device(name)
    import torch

    kind, _, number = name.partition(":")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    if kind == "cuda" and not torch.cuda.is_available():
        raise SrcliError(
            f"The device {name} is not there: this torch ({torch.__version__}) finds no CUDA GPU. Use --device cpu."
        )
    if number and int(number) >= torch.cuda.device_count():
        raise SrcliError(f"The device {name} is not there: the GPUs are 0 to {torch.cuda.device_count() - 1}.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise SrcliError("The device mps is not there: it needs a Mac with Apple silicon. Use --device cpu.")
    return torch.device(name)


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The type that generator and VGG compute in; weights, losses and the optimizer stay in float32 whatever it is.

    `auto` is bfloat16 where the processor multiplies such numbers in hardware (CUDA from Ampere on, x86 with AMX or
    AVX512-BF16) and float32 elsewhere, as bfloat16 is slower than that on other CPUs.
    """
    import torch

    if precision == "auto":
        fast = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else _has_bfloat16(device)
        return torch.bfloat16 if fast else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def inference_dtype(device: torch.device) -> torch.dtype:
    """The type that an enlarger's convolutions compute in: float16 on GPUs with hardware for it, else float32.

    Not bfloat16: its 8 binary digits move pixels by several gray levels where float16's 11 move them by one at most.
    """
    import torch

    fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)
    return torch.float16 if fast else torch.float32


def _has_bfloat16(device: torch.device) -> bool:
    import torch

    names = "_is_amx_tile_supported", "_is_avx512_bf16_supported"  # not public, so they may go
    probes = [getattr(torch.cpu, name, None) for name in names]
    return device.type == "cpu" and any(probe is not None and probe() for probe in probes)
