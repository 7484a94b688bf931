"""Devices and precisions. torch is imported only when it is needed, as that takes seconds."""

from __future__ import annotations

import os
import platform
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from srcli.config import Precision
from srcli.errors import ConfigError, SrcliError, counted

if TYPE_CHECKING:
    import torch


def check_device(name: str) -> None:
    """Raise ConfigError if the name of the device is invalid."""
    kind, colon, number = name.partition(":")
    if name not in ("auto", "cpu", "cuda", "mps") and not (kind == "cuda" and colon and number.isdigit()):
        raise ConfigError(f"There is no device {name!r}. Choose auto, cpu, cuda, cuda:N or mps.")


def has_gpu_driver() -> bool:
    """Whether there may be a GPU that torch can use. If not, torch need not be imported to find out."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"  # MPS is part of the system
    if sys.platform == "win32":
        return Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "nvcuda.dll").exists()
    # the drivers of NVIDIA, of Windows Subsystem for Linux, and of AMD
    return any(Path("/dev", name).exists() for name in ("nvidiactl", "nvidia0", "dxg", "kfd"))


def is_cpu(name: str) -> bool:
    """Whether `pick_device` returns the CPU. Imports torch only if there may be a GPU. Raises as `pick_device` does."""
    check_device(name)
    if name == "cpu" or (name == "auto" and not has_gpu_driver()):
        return True
    return pick_device(name).type == "cpu"


def has_fast_int8() -> bool:
    """Whether OpenVINO's int8 convolutions are faster than float32 on this CPU: on x86-64, which has instructions for them."""
    return platform.machine().lower() in ("x86_64", "amd64")


def pick_device(name: str) -> torch.device:
    """The device for `auto` (CUDA, then Apple's MPS, then the CPU), `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises ConfigError if the name is invalid, and SrcliError if the device is not available. There is no silent fallback.
    """
    check_device(name)
    import torch

    kind, _, number = name.partition(":")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    if kind == "cuda" and not torch.cuda.is_available():
        raise SrcliError(
            f"The device {name} is not available: this torch ({torch.__version__}) finds no CUDA GPU. Use `device=cpu`."
        )
    if number and int(number) >= torch.cuda.device_count():
        raise SrcliError(f"The device {name} is not available: the GPUs are 0 to {torch.cuda.device_count() - 1}.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise SrcliError("The device mps is not available: it needs a Mac with Apple silicon. Use `device=cpu`.")
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """The device by its name, such as `cuda:0, NVIDIA H100` or `cpu, AMD EPYC 9B14, 8 threads`."""
    import torch

    if device.type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}"
    if device.type != "cpu":
        return str(device)
    name = platform.processor() or platform.machine()
    with suppress(OSError):  # not Linux
        names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        name = names[0] if names else name
    return f"cpu, {name}, {counted(torch.get_num_threads(), 'thread')}"


def peak_memory() -> int | None:
    """The peak memory in bytes: of the GPU if it is used, otherwise of this process, if the system reports it."""
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype in which the generator and VGG are trained. Weights, losses and the optimizer always use float32.

    `auto` is bfloat16 on processors with hardware support (CUDA from Ampere on, x86 with AMX or AVX512-BF16), and float32
    elsewhere, as bfloat16 is slower on other CPUs.
    """
    import torch

    if precision == "auto":
        fast = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else _has_bfloat16(device)
        return torch.bfloat16 if fast else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def inference_dtype(device: torch.device) -> torch.dtype:
    """The dtype for inference: float16 on GPUs with hardware support, otherwise float32.

    bfloat16 has 8 significant bits and changes pixels by several gray levels; float16 has 11 and changes them by one at most.
    """
    import torch

    fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)
    return torch.float16 if fast else torch.float32


def _has_bfloat16(device: torch.device) -> bool:
    import torch

    names = "_is_amx_tile_supported", "_is_avx512_bf16_supported"  # private, so they may be removed
    probes = [getattr(torch.cpu, name, None) for name in names]
    return device.type == "cpu" and any(probe is not None and probe() for probe in probes)
