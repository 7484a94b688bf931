"""Third-party models: networks from .pth or .safetensors files of other projects, loaded with spandrel."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from srcli.errors import SrcliError
from srcli.inference.torch_backend import TorchBackend
from srcli.models.checkpoint import read_safetensors, read_torch

TILE_MULTIPLE = 32
"""Tiles start at multiples of this many lr pixels, so that attention windows align with those of the whole image."""

BYTES_PER_PIXEL = (16 * 1024, 48 * 1024)
"""Memory per lr pixel: of plain convolutions (the largest ESRGAN needs 9 KiB), and of all others (HAT needs 40 KiB)."""

CONVOLUTIONAL = ("Compact", "ESRGAN", "SPAN")
"""Architectures of plain convolutions, for which a halo of 32 is enough. Others see farther, through windows or pooling."""


@dataclass(frozen=True)
class ThirdPartyModel:
    """A model that srcli did not train. network: N x 3 x H x W to N x 3 x sH x sW. half: whether it supports float16."""

    path: Path
    network: nn.Module
    architecture: str
    scale: int
    halo: int
    bytes_per_pixel: int
    half: bool
    pools: bool
    """Whether it pools over the whole image, so that its output depends on the tiles."""

    restores = True
    """It may have been trained to remove noise or artifacts, which the file does not say."""

    @property
    def name(self) -> str:
        return self.path.stem

    def backend(self, device: torch.device) -> TorchBackend:
        dtype = None if self.half else torch.float32
        return TorchBackend(
            self.network,
            device,
            scale=self.scale,
            halo=self.halo,
            tile_multiple=TILE_MULTIPLE,
            bytes_per_pixel=self.bytes_per_pixel,
            dtype=dtype,
        )

    @property
    def note(self) -> str:
        """What the user should know before using the results."""
        tiles = " It pools over the whole image, so tiles may differ in tone; `tile=0` turns tiling off."
        return (
            f"{self.path} is a network of type {self.architecture}, loaded with spandrel (MIT). Its weights are under the "
            f"license of their author; see where you got them.{tiles if self.pools else ''}"
        )


def load_third_party(path: Path) -> ThirdPartyModel:
    """The network in a .pth, .pt, .ckpt or .safetensors file. Its architecture and sizes are inferred from its weights.

    Runs no code from the file. Raises SrcliError if spandrel is missing, if the file is damaged or the architecture unknown, or
    if the network does not upscale single images of 3 channels, or of 1.
    """
    spandrel = import_spandrel()
    weights: dict[str, Any] = read_safetensors(path)[0] if path.suffix.lower() == ".safetensors" else read_torch(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings for the authors of the networks
            weights = {
                name.replace("_orig_mod.", ""): weight for name, weight in spandrel.canonicalize_state_dict(weights).items()
            }  # of a network that torch.compile has wrapped
            found = spandrel.ModelLoader("cpu").load_from_state_dict(weights)
    except spandrel.UnsupportedModelError:
        raise SrcliError(
            f"{path} contains no network that srcli or spandrel supports. Give a super-resolution model."
        ) from None
    except Exception as error:  # spandrel infers sizes from names, which any file may break
        reason = " ".join(str(error).split())[:200]
        raise SrcliError(f"{path} is damaged or of an unknown type ({type(error).__name__}: {reason}). Get it again.") from None
    kind = found.architecture.name
    if not isinstance(found, spandrel.ImageModelDescriptor) or found.purpose not in ("SR", "Restoration"):
        raise SrcliError(f"{path} is a network of type {kind}, which does not upscale images. Use another model.")
    channels = (found.input_channels, found.output_channels)
    if channels not in ((3, 3), (1, 1)):
        raise SrcliError(f"{path} maps {channels[0]} channels to {channels[1]}; networks with 3 or 1 for both are supported.")
    pools = any(isinstance(part, nn.AdaptiveAvgPool2d) for part in found.model.modules())
    halo, bytes_per_pixel = (
        (TILE_MULTIPLE, BYTES_PER_PIXEL[0]) if kind in CONVOLUTIONAL else (2 * TILE_MULTIPLE, BYTES_PER_PIXEL[1])
    )
    return ThirdPartyModel(path, _Padded(found), kind, found.scale, halo, bytes_per_pixel, found.supports_half, pools)


class _Padded(nn.Module):
    """A spandrel model for RGB images of any size, which spandrel pads to sizes that the network supports."""

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.network: nn.Module = descriptor.model
        self.descriptor = descriptor

    def forward(self, lr: Tensor) -> Tensor:
        if self.descriptor.input_channels == 3:
            sr: Tensor = self.descriptor(lr)
            return sr
        return torch.cat([self.descriptor(channel) for channel in torch.split(lr, 1, dim=1)], dim=1)


def import_spandrel() -> Any:
    """The module spandrel. Raises SrcliError if it is not installed."""
    try:
        with _without_broken_torchvision():
            import spandrel
    except ImportError as error:
        raise SrcliError(
            f"This model needs the package spandrel, which cannot be imported ({error}). Install it: pip install spandrel"
        ) from None
    return spandrel


@contextmanager
def _without_broken_torchvision() -> Iterator[None]:
    """Make spandrel importable if torchvision is missing or does not match torch.

    spandrel needs two functions of torchvision, for networks that do not upscale. Importing torchvision fails if its build does
    not match torch's, which is common with a CPU build of torch.
    """
    try:
        import_module("torchvision.transforms.functional")
    except (ImportError, RuntimeError):
        names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # parts that were imported before the failure
        modules = {name: ModuleType(name) for name in names}
        for wanted in ("InterpolationMode", "rotate", "normalize"):
            setattr(modules[names[-1]], wanted, None)
        sys.modules.update(modules)
        try:
            yield
        finally:
            for name in names:
                sys.modules.pop(name, None)
    else:
        yield
