"""Image super-resolution: train it, apply it, and measure what it does.

The public names are loaded on first use, as most of them need torch, which takes seconds to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from srcli.comparison import Comparison, compare
    from srcli.errors import SrcliError
    from srcli.images import Picture, read_picture, write_picture
    from srcli.upscaling import load_enlarger, upscale

_HOMES = {
    "Comparison": "comparison",
    "Picture": "images",
    "SrcliError": "errors",
    "compare": "comparison",
    "load_enlarger": "upscaling",
    "read_picture": "images",
    "upscale": "upscaling",
    "write_picture": "images",
}
__all__ = ["Comparison", "Picture", "SrcliError", "compare", "load_enlarger", "read_picture", "upscale", "write_picture"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'srcli' has no attribute {name!r}")
    return getattr(import_module(f"srcli.{_HOMES[name]}"), name)
