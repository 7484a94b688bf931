"""What runs a network: the `Backend` protocol, and `load_model`, which picks an implementation for a model and a device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from srcli.core.device import has_gpu_driver, pick_device, takes_cpu
from srcli.core.graph import BODIES
from srcli.models.registry import ModelSpec, describe_model, is_third_party, read_weights

if TYPE_CHECKING:
    from srcli.inference.third_party import ThirdPartyModel

    Model = ModelSpec | ThirdPartyModel


class Backend(Protocol):
    """What runs a generator, for one thread or for several at once, of which some may have to wait.

    `halo`: how many lr pixels around a place decide what it becomes. `grid`: tiles, with their halo, begin at multiples of so
    many lr pixels, and `halo` is one.
    """

    @property
    def scale(self) -> int: ...

    @property
    def halo(self) -> int: ...

    @property
    def grid(self) -> int: ...

    @property
    def bytes_per_pixel(self) -> int:
        """How much memory it needs at most for each lr pixel of a tile, with all that it keeps for other threads' tiles."""
        ...

    @property
    def device_free_bytes(self) -> int | None:
        """How much is free in a memory of its own, as a GPU has; None where it works in the machine's."""
        ...

    @property
    def runs_on(self) -> str:
        """Device, what computes there and how precisely, as in `cpu (OpenVINO, fp32)`."""
        ...

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """lr, 3 x H x W, RGB float32 in [0, 1], to sr, 3 x sH x sW, around [0, 1], which is the caller's to change.

        Raises MemoryError where there is too little for an image of this size, and SrcliError where sr is not finite.
        """
        ...


def find_model(model: str | Path) -> Model:
    """A shipped model by name, a file that srcli train wrote, or other people's weights, which need spandrel.

    Raises SrcliError: no such model, a damaged file, or a network that srcli cannot use.
    """
    if not is_third_party(model):
        return describe_model(model)
    from srcli.inference.third_party import load_third_party  # here, as torch takes seconds to import

    return load_third_party(Path(model))


def load_model(model: str | Path | Model, device: str = "auto") -> Backend:
    """A model (see `find_model`), ready to upscale on `device` (auto, cpu, cuda, cuda:N, mps).

    Compact generators run without torch on the CPU, which saves the seconds that importing torch takes.
    Raises SrcliError: no such model, a damaged file, a device that is not there.
    """
    found = find_model(model) if isinstance(model, str | Path) else model
    if not isinstance(found, ModelSpec):
        return found.backend(pick_device(device))
    if found.ensemble:
        return SelfEnsemble(load_model(replace(found, ensemble=False), device))
    cpu = takes_cpu(device)
    note = "; a GPU driver is installed, but torch finds no GPU" if device == "auto" and cpu and has_gpu_driver() else ""
    if found.int8 and not cpu:
        note = f"{note}; int8 runs on CPUs only"
    if type(found.config) in BODIES and cpu:
        try:
            from srcli.inference.openvino_backend import OpenVINOBackend
        except (ImportError, OSError) as error:  # there is no OpenVINO for some platforms; torch gives the same image
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


@dataclass
class BackendWrapper:
    """An enlarger that has another one do the work: what it says of itself is what that one says."""

    backend: Backend

    @property
    def scale(self) -> int:
        return self.backend.scale

    @property
    def halo(self) -> int:
        return self.backend.halo

    @property
    def grid(self) -> int:
        return self.backend.grid

    @property
    def bytes_per_pixel(self) -> int:
        return self.backend.bytes_per_pixel

    @property
    def device_free_bytes(self) -> int | None:
        return self.backend.device_free_bytes

    @property
    def runs_on(self) -> str:
        return self.backend.runs_on


class SelfEnsemble(BackendWrapper):
    """The mean of what an enlarger makes of an image in its eight positions, turned and mirrored, each brought back.

    Errors that depend on the position go (the self-ensemble of Timofte et al. 2016, "Seven ways to improve example-based
    single image super resolution"); it takes eight times as long.
    """

    @property
    def bytes_per_pixel(self) -> int:
        return self.backend.bytes_per_pixel + 24 * self.scale**2  # one result, and the sum of them

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """As an enlarger's."""
        height, width = (side * self.scale for side in lr.shape[1:])
        total = np.zeros((3, height, width), np.float32)
        for transposed, axes in product((False, True), ((), (1,), (2,), (1, 2))):
            turned = np.flip(lr.swapaxes(1, 2) if transposed else lr, axes)
            sr = np.flip(self.backend(np.ascontiguousarray(turned)), axes)
            total += sr.swapaxes(1, 2) if transposed else sr
        return total / 8
