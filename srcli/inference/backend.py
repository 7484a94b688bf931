"""Backends run a network on a device: arrays in, arrays out. `load_model` chooses one for a model. Needs no torch by itself."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from srcli.core.device import has_fast_int8, has_gpu_driver, is_cpu, pick_device
from srcli.core.graph import BODIES
from srcli.models.registry import ModelSpec, describe_model, is_third_party, read_weights

if TYPE_CHECKING:
    from srcli.inference.third_party import ThirdPartyModel

    Model = ModelSpec | ThirdPartyModel


class Backend(Protocol):
    """Runs a network. May be called from several threads at once; calls may wait for each other.

    halo: radius of the receptive field in lr pixels. tile_multiple: tiles, with their halo, start at multiples of this many lr
    pixels, and `halo` is one. bytes_per_pixel: memory per lr pixel of a tile, at most, for all concurrent calls together.
    device_free_bytes: free memory of a GPU after the network is loaded; None if the network uses the machine's memory.
    """

    scale: int
    halo: int
    tile_multiple: int
    bytes_per_pixel: int
    device_free_bytes: int | None

    @property
    def description(self) -> str:
        """Device, library and precision, as in `cpu (OpenVINO, fp32)`."""
        ...

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """lr, 3 x H x W, RGB float32 in [0, 1], to sr, 3 x sH x sW, around [0, 1]. The caller may change sr.

        Raises MemoryError if an image of this size does not fit, and NonFiniteOutputError if sr is not finite.
        """
        ...


class Helpers(Protocol):
    """Other processes that compute tiles of large images along with this one.

    least_pixels: lr pixels from which on an image is large. at_once: tiles of it at a time.
    """

    least_pixels: int
    at_once: int

    def join(self, backend: Backend, place: int) -> Backend:
        """A backend that shares its work with them. place: of its model in `UpscaleOptions.all_models`."""
        ...


def find_model(model: str | Path) -> Model:
    """A shipped model by name, a file that `srcli train` wrote, or a third-party model, for which spandrel is needed.

    Raises SrcliError if there is no such model, if the file is damaged, or if the network is not supported.
    """
    if not is_third_party(model):
        return describe_model(model)
    from srcli.inference.untrusted import check_loads

    check_loads(Path(model))
    from srcli.inference.third_party import load_third_party  # imports torch, which takes seconds

    return load_third_party(Path(model))


def load_model(model: str | Path | Model, device: str = "auto") -> Backend:
    """Load a model (see `find_model`) for inference on a device: auto, cpu, cuda, cuda:N or mps.

    Generators with a body in `srcli.core.graph` run in OpenVINO on the CPU, without importing torch.
    Raises SrcliError if there is no such model or device, or if the file is damaged.
    """
    found = find_model(model) if isinstance(model, str | Path) else model
    if not isinstance(found, ModelSpec):
        return found.backend(pick_device(device))
    if found.ensemble:
        return SelfEnsemble(load_model(replace(found, ensemble=False), device))
    cpu = is_cpu(device)
    note = "; a GPU driver is installed, but torch finds no GPU" if device == "auto" and cpu and has_gpu_driver() else ""
    if found.int8 and not cpu:
        note = f"{note}; int8 runs on CPUs only"
    if found.int8 and cpu and not has_fast_int8():
        found = replace(found, int8=False)
        note = f"{note}; int8 is not faster on this CPU"
    if type(found.config) in BODIES and cpu:
        try:
            from srcli.inference.openvino_backend import OpenVINOBackend
        except (ImportError, OSError) as error:  # OpenVINO does not exist for some platforms; torch gives the same image
            note += f"; OpenVINO cannot be loaded: {error}"
        else:
            return OpenVINOBackend(found.config, read_weights(found), note=note)
    from srcli.inference.torch_backend import TorchBackend
    from srcli.models.checkpoint import load_generator

    generator = load_generator(replace(found, int8=False))
    return TorchBackend(
        generator,
        pick_device(device),
        scale=generator.scale,
        halo=generator.halo,
        bytes_per_pixel=generator.bytes_per_pixel,
        note=note,
    )


class SelfEnsemble:
    """The mean of a backend's outputs for all eight flips and rotations of an image, each transformed back.

    It averages out errors that depend on the orientation (self-ensemble: Timofte et al. 2016, "Seven ways to improve
    example-based single image super resolution"), and takes eight times as long.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.scale, self.halo, self.tile_multiple = backend.scale, backend.halo, backend.tile_multiple
        self.bytes_per_pixel = backend.bytes_per_pixel + 24 * backend.scale**2  # one output and the sum, float32 RGB
        self.device_free_bytes = backend.device_free_bytes

    @property
    def description(self) -> str:
        return self.backend.description

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """See `Backend`."""
        height, width = (side * self.scale for side in lr.shape[1:])
        total = np.zeros((3, height, width), np.float32)
        for transposed, axes in product((False, True), ((), (1,), (2,), (1, 2))):
            transformed = np.flip(lr.swapaxes(1, 2) if transposed else lr, axes)
            sr = np.flip(self.backend(np.ascontiguousarray(transformed)), axes)
            total += sr.swapaxes(1, 2) if transposed else sr
        return total / 8
