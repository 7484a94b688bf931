"""Labels of a teacher: another model's upscaled images, which the generator learns along with the photographs.

A label is made once for each image and kept as a PNG file in the cache, under a key of teacher, scale and pixels. If the
process is killed in between, the labels so far are found again. The photographs at half their size can be labeled as well.
What a teacher of a larger scale makes is downscaled: such a teacher knows more, as it has to guess more. Photographs that the
teacher skips, such as drawings that it knows less about than they show, are their own labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
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
from srcli.io.write import write_rows
from srcli.models.registry import ModelSpec
from srcli.training.cache import decode_cached, mark_used, unused_files
from srcli.training.dataset import PhotoDataset, UnlabeledImages

FORMAT = 1
"""Increased whenever the same teacher would make other labels."""


class Teacher:
    """A model and the folder of its labels."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        """Raises ConfigError if the teacher's scale is smaller than the generator's, or if there is nowhere to keep labels."""
        assert config.teacher is not None
        self.model, self.device = find_model(config.teacher), device
        self.scale = config.generator.scale
        if self.model.scale < self.scale:
            raise ConfigError(
                f"The teacher {config.teacher} is an x{self.model.scale} model, but the generator is x{self.scale}; "
                f"choose a model of x{self.scale} or more for `teacher`."
            )
        if config.cache == "none":
            raise ConfigError("Labels of a teacher are kept in the cache; set `cache` to a folder instead of none.")
        self.cache = user_cache() if config.cache == "auto" else Path(config.cache)
        self.photos = Path(config.photos or "")
        self.unlabeled, self.skip = config.unlabeled, config.teacher_skip
        self.folder = self.cache / "labels" / f"{self.model.path.stem}-{self._key()}"

    def with_unlabeled(self, photos: PhotoDataset) -> PhotoDataset:
        """The photographs with the inputs that the config adds, from the cache. They have no labels yet."""
        if self.unlabeled == "none":
            return photos
        paths = [self.photos / name for name in photos.names]
        image_of = dict(zip(paths, photos.images, strict=True))
        name = f"half of {self.photos.resolve()}"
        found = decode_cached(paths, lambda path: _half(image_of[path]), lambda: None, folder=self.cache, name=name)
        images = tuple(image for image in found if not isinstance(image, SrcliError))
        return replace(photos, unlabeled=UnlabeledImages(images, ()))

    def make(self, photos: PhotoDataset, on_label: Callable[[int, int], None], part: slice = slice(None)) -> None:
        """Make the labels that are missing. photos: see `with_unlabeled`. part: of the images, for one of several processes.

        on_label: called before the first and after each label with the number of labels that exist and of all.
        Raises SrcliError if a label cannot be written, or if the pattern of what the teacher skips fits no photograph.
        """
        inputs: list[tuple[Path, Callable[[], np.ndarray]]] = []
        for number, path in zip(self._taught(photos), self._paths(photos), strict=True):
            inputs.append((path, partial(self._seen, photos, number)))
        for image, path in zip(photos.unlabeled.images if photos.unlabeled else (), self._unlabeled_paths(photos), strict=True):
            inputs.append((path, partial(np.asarray, image)))
        inputs = inputs[part]
        missing = [(path, seen) for path, seen in inputs if not path.exists()]
        if not missing:
            return
        backend = load_model(self.model, str(self.device))
        self.folder.mkdir(parents=True, exist_ok=True)
        done = len(inputs) - len(missing)
        on_label(done, len(inputs))
        for path, seen in missing:
            if not path.exists():  # not made for an identical image
                lr = seen()
                size = (lr.shape[1] * self.scale, lr.shape[0] * self.scale)
                write_rows(upscale(backend, Image(lr)).rows(), path, size=size)
            done += 1
            on_label(done, len(inputs))

    def labeled(self, photos: PhotoDataset) -> PhotoDataset:
        """The photographs with their labels, cropped to a multiple of the scale. Raises SrcliError if a label is damaged."""
        scale, unlabeled = self.scale, photos.unlabeled
        images = tuple(image[: image.shape[0] // scale * scale, : image.shape[1] // scale * scale] for image in photos.images)
        taught = self._taught(photos)
        read = self._read(self._paths(photos), [images[number].shape for number in taught], str(self.photos))
        labels = list(images)
        for number, label in zip(taught, read, strict=True):
            labels[number] = label
        if unlabeled is not None:
            sizes = [(image.shape[0] * scale, image.shape[1] * scale, 3) for image in unlabeled.images]
            read = self._read(self._unlabeled_paths(photos), sizes, f"half of {self.photos}")
            unlabeled = replace(unlabeled, labels=read)
        return replace(photos, images=images, labels=tuple(labels), scale=scale, unlabeled=unlabeled)

    def _taught(self, photos: PhotoDataset) -> list[int]:
        """The numbers of the photographs that the teacher labels."""
        numbers = [number for number, name in enumerate(photos.names) if not (self.skip and fnmatch(name, self.skip))]
        if self.skip and len(numbers) == len(photos):
            raise ConfigError(f"No path in {self.photos} fits `teacher_skip={self.skip}`; use one such as {photos.names[0]}.")
        return numbers

    def _read(self, paths: list[Path], shapes: Sequence[tuple[int, ...]], name: str) -> tuple[np.ndarray, ...]:
        """Labels of given shapes, from the cache of decoded images. Labels that no run used for a while are removed."""
        mark_used(paths)
        for unused in unused_files(self.folder.parent.glob("*/*.png")):
            unused.unlink(missing_ok=True)
        labels: list[np.ndarray] = []
        found = decode_cached(paths, read_srgb, lambda: None, folder=self.cache, name=f"{self.folder} {name}")
        for path, label, shape in zip(paths, found, shapes, strict=True):
            if isinstance(label, SrcliError) or label.shape != shape:
                raise SrcliError(f"{path}, a label of the teacher, is damaged. Delete it; it will be made again.")
            labels.append(label)
        return tuple(labels)

    def _seen(self, photos: PhotoDataset, number: int) -> np.ndarray:
        """The image that the teacher upscales, H x W x 3 uint8: the LR image of a pair, or the clean downscaled photograph."""
        if photos.lr_images is not None:
            return photos.lr_images[number]
        scale = self.scale
        height, width = (side // scale * scale for side in photos.images[number].shape[:2])
        return _downscaled(photos.images[number][:height, :width], scale)

    def _paths(self, photos: PhotoDataset) -> list[Path]:
        """The file of each label."""
        sources = photos.images if photos.lr_images is None else photos.lr_images
        kind = "hr" if photos.lr_images is None else "lr"
        return [self._path(kind, sources[number]) for number in self._taught(photos)]

    def _unlabeled_paths(self, photos: PhotoDataset) -> list[Path]:
        return [self._path("lr", image) for image in (photos.unlabeled.images if photos.unlabeled else ())]

    def _path(self, kind: str, image: np.ndarray) -> Path:
        """The file of the label of an image. kind: `lr` for one that the teacher upscales as it is."""
        return self.folder / f"{kind}-{_hash(repr(image.shape).encode(), image)}.png"

    def _key(self) -> str:
        """A hash of the model: of its files and of how they are run."""
        files, how = [self.model.path], ""
        if isinstance(self.model, ModelSpec):
            files += [path for path, _ in self.model.blended]
            how = f"{self.model.blend} {self.model.int8} {self.model.ensemble}"
        scales = str(self.scale) if self.model.scale == self.scale else f"{self.model.scale} to {self.scale}"
        return _hash(f"{FORMAT} {scales} {how}".encode(), *(file.read_bytes() for file in files))


def _half(image: np.ndarray) -> np.ndarray:
    return _downscaled(image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2], 2)


def _downscaled(image: np.ndarray, scale: int) -> np.ndarray:
    """H x W x 3 uint8, with sides that are multiples of the scale, downscaled by it."""
    hr = torch.tensor(image).permute(2, 0, 1)[None].float() / 255
    pixels: np.ndarray = (bicubic(hr, scale)[0] * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    return pixels


def _hash(*parts: bytes | np.ndarray) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).data)
    return total.hexdigest()[:24]
