"""Make torchvision importable with a CPU build of torch."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import torch

_library = None


def declare_operators() -> bool:
    """Declare torchvision's compiled operators, which a CPU build of torch cannot load, so that torchvision can be imported.

    The networks do not need them. Returns False if torchvision is not installed.
    """
    global _library
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.submodule_search_locations is None:
        return False
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        source = (Path(spec.submodule_search_locations[0]) / "_meta_registrations.py").read_text(encoding="utf-8")
        _library = torch.library.Library("torchvision", "DEF")
        for name in set(re.findall(r'(?:register_meta\("|torchvision::)(\w+)', source)):
            _library.define(f"{name}() -> ()")
    return True
