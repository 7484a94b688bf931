"""Other people's models: a .pth or .safetensors file in, a network that upscales out, through the library spandrel."""

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

GRID = 32
"""Tiles begin at multiples of so many lr pixels: windows of attention and pixel unshuffles then lie as in the whole image."""

BYTES_PER_PIXEL = (16 * 1024, 48 * 1024)
"""Memory for each lr pixel: of plain convolutions (the largest ESRGAN needs 9 KiB), of all others (HAT needs 40 KiB)."""

LOCAL = ("Compact", "ESRGAN", "SPAN")
"""Architectures of plain convolutions: a halo of 32 is all that shows. Others look further, through windows or pooling."""


@dataclass(frozen=True)
class ThirdPartyModel:
    """A model that srcli did not train. network: N x 3 x H x W to N x 3 x sH x sW, any size. half: whether float16 will do."""

    path: Path
    network: nn.Module
    architecture: str
    scale: int
    halo: int
    bytes_per_pixel: int
    half: bool
    pools: bool
    """Whether it looks at the whole image at once, so that tiles cannot show it what it wants to see."""

    @property
    def name(self) -> str:
        return self.path.stem

    def backend(self, device: torch.device) -> TorchBackend:
        dtype = None if self.half else torch.float32
        return TorchBackend(
            self.network, device, scale=self.scale, halo=self.halo, grid=GRID, bytes_per_pixel=self.bytes_per_pixel, dtype=dtype
        )

    @property
    def note(self) -> str:
        """What to know before its images are used."""
        tiles = " It looks at the whole image at once, so tiles may differ in tone; --tile 0 leaves them out."
        return (
            f"{self.path} is a network of the architecture {self.architecture}, run through spandrel (MIT). The weights have "
            f"their author's license, not srcli's: see where you got them.{tiles if self.pools else ''}"
        )


def load_third_party(path: Path) -> ThirdPartyModel:
    """The network in a .pth, .pt, .ckpt or .safetensors file, whose architecture and sizes are read off its weights.

    Runs no code from the file. Raises SrcliError: spandrel is missing, a damaged file, an unknown architecture, or a network
    that does something else than to upscale one image of 3 channels, or each channel by itself.
    """
    spandrel = import_spandrel()
    weights: dict[str, Any] = read_safetensors(path)[0] if path.suffix.lower() == ".safetensors" else read_torch(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the networks' code has to say to its authors
            found = spandrel.ModelLoader("cpu").load_from_state_dict(spandrel.canonicalize_state_dict(weights))
    except spandrel.UnsupportedModelError:
        raise SrcliError(f"{path} holds no network that srcli or spandrel knows. Give a super-resolution model.") from None
    except Exception as error:  # spandrel guesses sizes from names, and foreign files may break any guess
        reason = " ".join(str(error).split())[:200]
        raise SrcliError(f"{path} is damaged or of an unknown kind ({type(error).__name__}: {reason}). Get it again.") from None
    kind = found.architecture.name
    if not isinstance(found, spandrel.ImageModelDescriptor) or found.purpose != "SR" or found.scale < 2:
        raise SrcliError(f"{path} is a {kind} network that does not upscale images as such; srcli takes super-resolution only.")
    channels = (found.input_channels, found.output_channels)
    if channels not in ((3, 3), (1, 1)):
        raise SrcliError(
            f"{path} takes {channels[0]} channels and gives {channels[1]}; srcli takes networks of 3 to 3 or 1 to 1."
        )
    pools = any(isinstance(part, nn.AdaptiveAvgPool2d) for part in found.model.modules())
    halo, bytes_per_pixel = (GRID, BYTES_PER_PIXEL[0]) if kind in LOCAL else (2 * GRID, BYTES_PER_PIXEL[1])
    return ThirdPartyModel(path, _Padded(found), kind, found.scale, halo, bytes_per_pixel, found.supports_half, pools)


class _Padded(nn.Module):
    """A spandrel model for RGB of any size: it pads to what the network needs and cuts the padding off again."""

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
    """The module. Raises SrcliError where it is not installed."""
    try:
        with _without_broken_torchvision():
            import spandrel
    except ImportError as error:
        raise SrcliError(
            f"This model needs the library spandrel, which cannot be imported ({error}). Get it: pip install spandrel"
        ) from None
    return spandrel


@contextmanager
def _without_broken_torchvision() -> Iterator[None]:
    """Let spandrel be imported where torchvision is missing or does not fit torch.

    It wants two functions of torchvision, for networks that upscale nothing; a CPU build of torch beside the usual
    torchvision is common, and importing that fails.
    """
    try:
        import_module("torchvision.transforms.functional")
    except (ImportError, RuntimeError):
        names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # what was imported before it failed
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
