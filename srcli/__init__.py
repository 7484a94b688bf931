"""Image super-resolution: train it, apply it, and measure what it does.

The public names are loaded on first use, as most of them need torch, which takes seconds to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from srcli.version import __version__ as __version__

if TYPE_CHECKING:
    from srcli.errors import SrcliError
    from srcli.evaluation.compare import Comparison, compare
    from srcli.inference.backend import load_model
    from srcli.inference.upscale import upscale
    from srcli.io.image import Image
    from srcli.io.read import read_image
    from srcli.io.write import write_image

_HOMES = {
    "Comparison": "evaluation.compare",
    "Image": "io.image",
    "SrcliError": "errors",
    "compare": "evaluation.compare",
    "load_model": "inference.backend",
    "read_image": "io.read",
    "upscale": "inference.upscale",
    "write_image": "io.write",
}
__all__ = ["Comparison", "Image", "SrcliError", "compare", "load_model", "read_image", "upscale", "write_image"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'srcli' has no attribute {name!r}")
    return getattr(import_module(f"srcli.{_HOMES[name]}"), name)
