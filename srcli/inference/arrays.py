"""Images of other libraries: PIL images, numpy arrays and torch tensors, to srcli's `Image` and back."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from srcli.io.image import Image
from srcli.io.read import read_image

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image as PILImage

    ImageLike = str | Path | Image | PILImage | np.ndarray | torch.Tensor

Back = Callable[[Image], Any]
"""From a result to the kind of image that was given."""

DEEP = 65_535
"""Floats are processed as 16-bit integers."""

PIL_MODES = ("L", "LA", "RGB", "RGBA", "I;16")


def as_images(value: ImageLike) -> tuple[list[Image], Callable[[list[Image]], Any]]:
    """Images in memory, and how to turn results into an object like `value`.

    value: a path (results are `Image`s), an `Image`, a PIL image, an array or a tensor. Arrays are H x W, or H x W x C with 1,
    3 or 4 channels; uint8, uint16, or floats in [0, 1]. Tensors are 3 x H x W or N x 3 x H x W, uint8 or floats in [0, 1], on
    any device. A tensor of N images gives N images, everything else one.
    Raises TypeError for anything else, and SrcliError for a file that cannot be read.
    """
    if isinstance(value, str | os.PathLike):
        return [read_image(Path(value))], _only
    if isinstance(value, Image):
        return [value], _only
    torch = sys.modules.get("torch")  # not imported for other kinds of images
    if torch is not None and isinstance(value, torch.Tensor):
        return _from_tensor(value)
    if isinstance(value, np.ndarray):
        image, back = _from_array(value)
        return [image], lambda results: back(results[0])
    pil = sys.modules.get("PIL.Image")
    if pil is not None and isinstance(value, pil.Image):
        image, back = _from_pil(value)
        return [image], lambda results: back(results[0])
    raise TypeError(
        f"An image of type {type(value).__name__} is not supported. Give a path, a PIL image, a numpy array or a torch tensor."
    )


def _only(images: list[Image]) -> Image:
    return images[0]


def _from_array(array: np.ndarray) -> tuple[Image, Back]:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or 0 in array.shape:
        raise TypeError(f"An array of shape {array.shape} is not an image. Give H x W, or H x W x 1, 3 or 4.")
    pixels = array[..., None] if array.ndim == 2 else array
    integers, back = _integers(pixels)

    def restored(image: Image) -> np.ndarray:
        result = back(image.pixels)
        return result[..., 0] if array.ndim == 2 else result

    return Image(integers), restored


def _integers(pixels: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Pixels as uint8 or uint16, and how to give results the dtype of `pixels`."""
    dtype = pixels.dtype
    if dtype in (np.uint8, np.uint16):
        return pixels, lambda result: result
    if not np.issubdtype(dtype, np.floating):
        raise TypeError(f"An array of type {dtype} is not supported. Give uint8, uint16, or floats from 0 to 1.")
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
        raise TypeError(f"The values of a float image must be from 0 to 1, but are {pixels.min():g} to {pixels.max():g}.")
    return np.rint(pixels.astype(np.float64) * DEEP).astype(np.uint16), lambda result: (result / DEEP).astype(dtype)


def _from_tensor(tensor: torch.Tensor) -> tuple[list[Image], Callable[[list[Image]], torch.Tensor]]:
    import torch

    if tensor.ndim not in (3, 4) or tensor.shape[-3] != 3 or 0 in tensor.shape:
        raise TypeError(f"A tensor of shape {tuple(tensor.shape)} is not an image. Give 3 x H x W or N x 3 x H x W.")
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise TypeError(f"A tensor of type {tensor.dtype} is not supported. Give uint8, or floats from 0 to 1.")
    batch = tensor.detach() if tensor.ndim == 4 else tensor.detach()[None]
    batch = batch if batch.dtype == torch.uint8 else batch.float()
    images: list[Image] = []
    for planes in batch.permute(0, 2, 3, 1).cpu().numpy():
        pixels, back = _integers(planes)
        images.append(Image(pixels))

    def restored(results: list[Image]) -> torch.Tensor:
        arrays = np.stack([back(result.pixels) for result in results])
        whole = torch.from_numpy(arrays).permute(0, 3, 1, 2).to(tensor.device, tensor.dtype)
        return whole if tensor.ndim == 4 else whole[0]

    return images, restored


def _from_pil(image: PILImage) -> tuple[Image, Back]:
    """Palettes become RGB or RGBA, and bits become gray. The color profile and all other `info` are kept."""
    mode = {"1": "L", "P": "RGBA" if image.has_transparency_data else "RGB", "PA": "RGBA"}.get(image.mode, image.mode)
    if mode not in PIL_MODES:
        raise TypeError(f"A PIL image of mode {image.mode} is not supported. Convert it to RGB, RGBA, L or LA first.")
    given = image if image.mode == mode else image.convert(mode)
    pixels = np.asarray(given)
    profile = image.info.get("icc_profile")

    def restored(result: Image) -> PILImage:
        from PIL.Image import fromarray

        array = result.pixels[..., 0] if result.pixels.shape[2] == 1 else result.pixels
        large = fromarray(array)
        large.info = {name: value for name, value in image.info.items() if name != "transparency"}
        return large

    return Image(pixels if pixels.ndim == 3 else pixels[..., None], _profile_metadata(profile)), restored


def _profile_metadata(profile: bytes | None) -> tuple[tuple[str, int, Any], ...]:
    import pyvips

    return (("icc-profile-data", pyvips.GValue.blob_type, profile),) if profile else ()
