"""Where and in which arithmetic the mathematics runs."""

from __future__ import annotations

import torch

from srcli.errors import SettingsError, SrcliError
from srcli.settings import Precision


def pick_device(name: str) -> torch.device:
    """`auto` (CUDA, then Apple's MPS, then the CPU), `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises SettingsError where the name is unknown, and SrcliError where the device is not there: what was asked for is never
    replaced silently.
    """
    kind, colon, number = name.partition(":")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    if name not in ("cpu", "cuda", "mps") and not (kind == "cuda" and colon and number.isdigit()):
        raise SettingsError(f"There is no device {name!r}. Choose auto, cpu, cuda, cuda:N or mps.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise SrcliError(
            f"The device {name} is not there: this torch ({torch.__version__}) finds no CUDA GPU. Use --device cpu."
        )
    if number and int(number) >= torch.cuda.device_count():
        raise SrcliError(f"The device {name} is not there: the GPUs are 0 to {torch.cuda.device_count() - 1}.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise SrcliError("The device mps is not there: it needs a Mac with Apple silicon. Use --device cpu.")
    return torch.device(name)


def autocast_type(precision: Precision, device: torch.device) -> torch.dtype:
    """The type that generator and VGG compute in; weights, losses and the optimizer stay in float32 whatever it is.

    `auto` is bfloat16 where the processor multiplies such matrices in hardware (CUDA from Ampere on, x86 with AMX) and
    float32 elsewhere, as bfloat16 is slower than that on other CPUs.
    """
    if precision == "auto":
        fast = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else _has_amx(device)
        return torch.bfloat16 if fast else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _has_amx(device: torch.device) -> bool:
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)  # not public, so it may go
    return device.type == "cpu" and probe is not None and bool(probe())
