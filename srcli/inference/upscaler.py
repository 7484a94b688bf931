"""The Python API of upscaling: a model on a device, for images of any kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from srcli.errors import ConfigError
from srcli.inference import backend as backends
from srcli.inference.arrays import as_images
from srcli.inference.upscale import upscale as upscale_image
from srcli.io.image import Image
from srcli.models.registry import select_models

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image as PILImage

    from srcli.inference.arrays import ImageLike
    from srcli.inference.backend import Backend, Model


class Upscaler:
    """A model that is loaded on a device. Calling it upscales an image by `scale`."""

    def __init__(self, backend: Backend, name: str = "model", *, tile: int | None = None) -> None:
        """backend: any callable with the attributes of `Backend`. name: for messages. tile: see `load_model`."""
        self.backend, self.name, self.tile = backend, name, tile

    @property
    def scale(self) -> int:
        return self.backend.scale

    @overload
    def __call__(self, image: str | Path | Image) -> Image: ...
    @overload
    def __call__(self, image: PILImage) -> PILImage: ...
    @overload
    def __call__(self, image: np.ndarray) -> np.ndarray: ...
    @overload
    def __call__(self, image: torch.Tensor) -> torch.Tensor: ...
    def __call__(self, image: ImageLike) -> Any:
        """The upscaled image, of the same kind and type, with gray, alpha and color profile kept. A path gives an `Image`.

        image: a path, an `Image`, a PIL image, a numpy array (H x W or H x W x 1, 3 or 4; uint8, uint16 or floats in [0, 1]),
        or a torch tensor (3 x H x W or N x 3 x H x W; uint8 or floats in [0, 1]; on any device, without gradient). The pixels
        equal those that `srcli upscale` writes; floats are processed in 16 bits.
        Raises TypeError for anything else, and SrcliError for a file that cannot be read.
        """
        images, restored = as_images(image)
        return restored([upscale_image(self.backend, each, tile=self.tile) for each in images])

    def __repr__(self) -> str:
        return f"<Upscaler {self.name} x{self.scale} on {self.backend.description}>"


def load_model(
    model: str | Path | None = None,
    *,
    device: str = "auto",
    scale: int = 4,
    effort: str = "balanced",
    perceptual: float = 0.0,
    denoise: float = 0.0,
    tile: int | None = None,
) -> Upscaler:
    """Load a model on a device: auto, cpu, cuda, cuda:N or mps.

    model: a shipped model by name, a file that `srcli train` wrote, the folder of a run, or a third-party model. Without it,
    the shipped model for `scale`, `effort`, `perceptual` and `denoise`, as on the command line; `denoise` has no automatic
    choice here. tile: side of a tile in pixels of the input; 0 for the whole image at once, None for what fits into memory.
    Raises SrcliError if there is no such model or device, or if the file is damaged.
    """
    found: Model
    if model is not None:
        if (scale, effort, perceptual, denoise) != (4, "balanced", 0.0, 0.0):
            raise ConfigError("`model` excludes `scale`, `effort`, `perceptual` and `denoise`, which choose a shipped model.")
        found = backends.find_model(model)
    else:
        models = {each.scale: each for each in select_models(effort=effort, perceptual=perceptual, denoise=denoise)}
        if scale not in models:
            known = ", ".join(map(str, models))
            raise ConfigError(f"There is no such model for scale {scale}; choose one of {known}, or give `model`.")
        found = models[scale]
    return Upscaler(backends.load_model(found, device), found.name, tile=tile)


def upscale(image: ImageLike, model: str | Path | Upscaler | None = None, *, device: str = "auto", **options: Any) -> Any:
    """Upscale one image. See `Upscaler` for the kinds of images, and `load_model` for `model`, `device` and `options`.

    Loading a model takes longer than upscaling a small image: for several images, call `load_model` once.
    """
    upscaler = model if isinstance(model, Upscaler) else load_model(model, device=device, **options)
    return upscaler(image)
