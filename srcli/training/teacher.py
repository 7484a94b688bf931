"""Labels of a teacher: another model's upscaled images, which the generator learns along with the photographs.

A label is made once for each image and kept as a PNG file in the cache, under a key of teacher, scale and pixels. If the
process is killed in between, the labels so far are found again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from srcli.config import TrainConfig
from srcli.core.degradation import bicubic
from srcli.errors import ConfigError, SrcliError
from srcli.inference.backend import find_model, load_model
from srcli.inference.upscale import upscale
from srcli.io.files import user_cache
from srcli.io.image import Image
from srcli.io.read import read_srgb
from srcli.io.write import write_image
from srcli.models.registry import ModelSpec
from srcli.training.cache import decode_cached
from srcli.training.dataset import PhotoDataset

FORMAT = 1
"""Increased whenever the same teacher would make other labels."""


class Teacher:
    """A model and the folder of its labels."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        """Raises ConfigError if the teacher has another scale than the generator, or if there is nowhere to keep labels."""
        assert config.teacher is not None
        self.model, self.device = find_model(config.teacher), device
        scale = config.generator.scale
        if self.model.scale != scale:
            raise ConfigError(
                f"The teacher {config.teacher} is an x{self.model.scale} model, but the generator is x{scale}; "
                f"choose an x{scale} model for `teacher`."
            )
        if config.cache == "none":
            raise ConfigError("Labels of a teacher are kept in the cache; set `cache` to a folder instead of none.")
        self.cache = user_cache() if config.cache == "auto" else Path(config.cache)
        self.photos = config.photos
        self.folder = self.cache / "labels" / f"{self.model.path.stem}-{self._key()}"

    def make(self, photos: PhotoDataset, on_label: Callable[[int, int], None], part: slice = slice(None)) -> None:
        """Make the labels that are missing. part: of the images, for one of several processes.

        on_label: called before the first and after each label with the number of labels that exist and of all.
        Raises SrcliError if a label cannot be written.
        """
        paths = self._paths(photos)[part]
        missing = [(number, path) for number, path in zip(range(len(photos))[part], paths, strict=True) if not path.exists()]
        if not missing:
            return
        backend = load_model(self.model, str(self.device))
        self.folder.mkdir(parents=True, exist_ok=True)
        done = len(paths) - len(missing)
        on_label(done, len(paths))
        for number, path in missing:
            if not path.exists():  # not made for an identical image
                write_image(upscale(backend, Image(self._seen(photos, number))), path)
            done += 1
            on_label(done, len(paths))

    def labeled(self, photos: PhotoDataset) -> PhotoDataset:
        """The photographs with their labels, cropped to a multiple of the scale. Raises SrcliError if a label is damaged."""
        paths = self._paths(photos)
        found = decode_cached(paths, read_srgb, lambda: None, folder=self.cache, name=f"{self.folder} {self.photos}")
        images, labels = [], []
        for path, image, label in zip(paths, photos.images, found, strict=True):
            height, width = (side // self.model.scale * self.model.scale for side in image.shape[:2])
            if isinstance(label, SrcliError) or label.shape != (height, width, 3):
                raise SrcliError(f"{path}, a label of the teacher, is damaged. Delete it; it will be made again.")
            images.append(image[:height, :width])
            labels.append(label)
        return replace(photos, images=tuple(images), labels=tuple(labels), scale=self.model.scale)

    def _seen(self, photos: PhotoDataset, number: int) -> np.ndarray:
        """The image that the teacher upscales, H x W x 3 uint8: the LR image of a pair, or the clean downscaled photograph."""
        if photos.lr_images is not None:
            return photos.lr_images[number]
        scale = self.model.scale
        height, width = (side // scale * scale for side in photos.images[number].shape[:2])
        hr = torch.tensor(photos.images[number][:height, :width]).permute(2, 0, 1)[None].float() / 255
        pixels: np.ndarray = (bicubic(hr, scale)[0] * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        return pixels

    def _paths(self, photos: PhotoDataset) -> list[Path]:
        """The file of each image's label."""
        sources = photos.images if photos.lr_images is None else photos.lr_images
        kind = "hr" if photos.lr_images is None else "lr"
        return [self.folder / f"{kind}-{_hash(repr(image.shape).encode(), image)}.png" for image in sources]

    def _key(self) -> str:
        """A hash of the model: of its files and of how they are run."""
        files, how = [self.model.path], ""
        if isinstance(self.model, ModelSpec):
            files += [path for path, _ in self.model.blended]
            how = f"{self.model.blend} {self.model.int8} {self.model.ensemble}"
        return _hash(f"{FORMAT} {self.model.scale} {how}".encode(), *(file.read_bytes() for file in files))


def _hash(*parts: bytes | np.ndarray) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).data)
    return total.hexdigest()[:24]
