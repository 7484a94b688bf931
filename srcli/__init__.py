"""Image super-resolution: train it, apply it, and measure what it does.

The public names are loaded on first use, as most of them need torch, which takes seconds to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from srcli.version import __version__ as __version__

if TYPE_CHECKING:
    from srcli.config import LossConfig, TrainConfig
    from srcli.core.losses import PixelLoss
    from srcli.core.metrics import psnr, ssim
    from srcli.errors import SrcliError
    from srcli.evaluation.compare import Comparison, compare
    from srcli.inference.upscaler import Upscaler, load_model, upscale
    from srcli.io.image import Image
    from srcli.io.read import read_image
    from srcli.io.write import write_image
    from srcli.models.perceptual import FeatureLoss, VGG16Features
    from srcli.training.run import train

_HOMES = {
    "Comparison": "evaluation.compare",
    "FeatureLoss": "models.perceptual",
    "Image": "io.image",
    "LossConfig": "config",
    "PixelLoss": "core.losses",
    "SrcliError": "errors",
    "TrainConfig": "config",
    "Upscaler": "inference.upscaler",
    "VGG16Features": "models.perceptual",
    "compare": "evaluation.compare",
    "load_model": "inference.upscaler",
    "psnr": "core.metrics",
    "read_image": "io.read",
    "ssim": "core.metrics",
    "train": "training.run",
    "upscale": "inference.upscaler",
    "write_image": "io.write",
}
__all__ = [
    "Comparison",
    "FeatureLoss",
    "Image",
    "LossConfig",
    "PixelLoss",
    "SrcliError",
    "TrainConfig",
    "Upscaler",
    "VGG16Features",
    "compare",
    "load_model",
    "psnr",
    "read_image",
    "ssim",
    "train",
    "upscale",
    "write_image",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'srcli' has no attribute {name!r}")
    return getattr(import_module(f"srcli.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
