"""A folder of photographs, and seeded batches of crops from them."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path

import numpy as np

from srcli.errors import SrcliError, counted
from srcli.io.discover import find_images
from srcli.io.read import read_srgb
from srcli.training.cache import decode, decode_cached, user_cache


@dataclass(frozen=True)
class TrainBatch:
    """The crops of one step.

    hr: N x P x P x 3 uint8, not yet augmented. lr: the same regions of the given LR images, or None if LR images are computed.
    augmentations: N x 3 bool, whether to transpose, flip vertically, and flip horizontally.
    """

    hr: np.ndarray
    lr: np.ndarray | None
    augmentations: np.ndarray


@dataclass(frozen=True)
class PhotoDataset:
    """Photographs, H x W x 3 uint8, and crops of them that depend only on seed and step.

    names: paths in the folder. lr_images: for given pairs, the LR image of each photograph, `scale` times smaller.
    """

    names: tuple[str, ...]
    images: tuple[np.ndarray, ...]
    lr_images: tuple[np.ndarray, ...] | None = None
    scale: int = 1

    @classmethod
    def read(
        cls,
        folder: Path,
        *,
        smallest: int,
        cache: str = "none",
        lr_data: Path | None = None,
        scale: int = 1,
        on_image: Callable[[], None] = lambda: None,
    ) -> PhotoDataset:
        """Read every image in the folder and its subfolders, and report all problems by file before training starts.

        smallest: shortest side of a photograph in pixels. cache: a folder for decoded images, `auto` for the user's cache
        folder, `none` for memory. lr_data: a folder with the LR image of each photograph, with the same name or `x{scale}`
        appended. on_image: called after each decoded image.
        Raises SrcliError if there is no image, or if an image is unreadable, too small, or does not match its pair.
        """
        paths = find_images(folder)
        names = tuple(str(path.relative_to(folder)) for path in paths)
        photos = _read_all(folder, paths, smallest, cache, on_image)
        if lr_data is None:
            return cls(names, photos)
        pairs = _pairs(folder, paths, lr_data, scale)
        lr_images = _read_all(lr_data, pairs, smallest // scale, cache, on_image)
        _refuse(
            f"{path} is {_size(lr)} pixels and its photograph is {_size(hr)}; "
            f"it must be exactly {scale} times smaller. Create it again."
            for path, lr, hr in zip(pairs, lr_images, photos, strict=True)
            if hr.shape[:2] != (lr.shape[0] * scale, lr.shape[1] * scale)
        )
        return cls(names, photos, lr_images, scale)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def megapixels(self) -> float:
        return float(sum(image.shape[0] * image.shape[1] for image in self.images) / 1e6)

    @property
    def fingerprint(self) -> str:
        """A hash of names and sizes. A resumed run equals an uninterrupted one only if it is unchanged."""
        known = [(name, *image.shape) for name, image in zip(self.names, self.images, strict=True)]
        return hashlib.sha256(repr(known).encode()).hexdigest()[:16]

    def crops(self, patch: int) -> int:
        """The number of crops that fit into the photographs without overlap: one epoch."""
        return sum((image.shape[0] // patch) * (image.shape[1] // patch) for image in self.images)

    def split(self, share: float, *, seed: int) -> tuple[PhotoDataset, PhotoDataset]:
        """The photographs to train on, and those held out: `share` of them, at least one, chosen by the seed.

        Raises SrcliError if none would be left to train on.
        """
        held = max(1, round(share * len(self)))
        if held >= len(self):
            raise SrcliError(
                f"There is only {counted(len(self), 'photograph')}, and {held} would be held out for validation. "
                "Add photographs, set `val` to another folder, or train without validation with `val_split=0`."
            )
        order = np.random.default_rng([seed, len(self)]).permutation(len(self))
        return self._subset(sorted(order[held:])), self._subset(sorted(order[:held]))

    def _subset(self, numbers: Sequence[int]) -> PhotoDataset:
        return PhotoDataset(
            tuple(self.names[i] for i in numbers),
            tuple(self.images[i] for i in numbers),
            None if self.lr_images is None else tuple(self.lr_images[i] for i in numbers),
            self.scale,
        )

    def batch(self, step: int, *, seed: int, size: int, patch: int, part: slice = slice(None)) -> TrainBatch:
        """`size` crops of `patch` x `patch` pixels, or the `part` of them that one process takes.

        A pure function of its arguments: a resumed run gets the same crops as an uninterrupted one, and so do runs with other
        losses or generators. Photographs are chosen in proportion to their pixels.
        """
        random = np.random.default_rng([seed, step])
        chosen = self._choose(random, size)[part]
        places = random.random((size, 2))[part]
        augmentations = (random.random((size, 3)) < 0.5)[part]
        hr = np.empty((len(chosen), patch, patch, 3), dtype=np.uint8)
        lr = (
            None
            if self.lr_images is None
            else np.empty((len(chosen), patch // self.scale, patch // self.scale, 3), dtype=np.uint8)
        )
        grid = self.scale if self.lr_images is not None else 1  # crops of a pair start at a pixel of the LR image
        for number, (index, place) in enumerate(zip(chosen, places, strict=True)):
            image = self.images[index]
            top, left = (int(at * ((side - patch) // grid + 1)) for at, side in zip(place, image.shape[:2], strict=True))
            hr[number] = image[top * grid : top * grid + patch, left * grid : left * grid + patch]
            if lr is not None and self.lr_images is not None:
                lr[number] = self.lr_images[index][top : top + lr.shape[1], left : left + lr.shape[2]]
        return TrainBatch(hr, lr, augmentations)

    def source_names(self, step: int, *, seed: int, size: int) -> list[str]:
        """The names of the photographs that the crops of a step are from."""
        return sorted({self.names[index] for index in self._choose(np.random.default_rng([seed, step]), size)})

    def _choose(self, random: np.random.Generator, size: int) -> np.ndarray:
        places: np.ndarray = np.searchsorted(self._ends, random.random(size) * self._ends[-1], side="right")
        return places

    @cached_property
    def _ends(self) -> np.ndarray:
        """Cumulative number of pixels."""
        return np.cumsum([image.shape[0] * image.shape[1] for image in self.images])


def prefetched(make: Callable[[int], TrainBatch], first: int) -> Iterator[TrainBatch]:
    """Yield make(first), make(first + 1) and so on, computed in a thread while the previous one is used."""
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(make, first + ahead) for ahead in range(2))
        for step in count(first + 2):
            batch = waiting.popleft().result()
            waiting.append(pool.submit(make, step))
            yield batch


def _read_all(
    folder: Path, paths: Sequence[Path], smallest: int, cache: str, on_image: Callable[[], None]
) -> tuple[np.ndarray, ...]:
    def read(path: Path) -> np.ndarray:
        image = read_srgb(path)
        _refuse(_too_small(path, image, smallest))
        return image

    if cache == "none":
        results = list(decode(paths, read, on_image))
    else:
        where = user_cache() if cache == "auto" else Path(cache)
        results = decode_cached(paths, read, on_image, folder=where, name=str(folder.resolve()))
    _refuse(str(result) for result in results if isinstance(result, SrcliError))
    images = tuple(result for result in results if isinstance(result, np.ndarray))
    # images from the cache have not been checked by `read`
    _refuse(sentence for path, image in zip(paths, images, strict=True) for sentence in _too_small(path, image, smallest))
    return images


def _refuse(sentences: Iterable[str]) -> None:
    """Raise one SrcliError with all sentences, if there are any."""
    problems = list(sentences)
    if problems:
        more = f"\n({len(problems) - 20} more images have similar problems.)" if len(problems) > 20 else ""
        raise SrcliError("\n".join(problems[:20]) + more)


def _pairs(folder: Path, paths: Sequence[Path], lr_data: Path, scale: int) -> list[Path]:
    """The LR image of each photograph."""
    by_name = {path.relative_to(lr_data).with_suffix(""): path for path in find_images(lr_data)}
    names = [path.relative_to(folder).with_suffix("") for path in paths]
    found = [by_name.get(name) or by_name.get(name.with_name(f"{name.name}x{scale}")) for name in names]
    _refuse(
        f"{path} has no LR image: {lr_data} contains neither {name} nor {name}x{scale}. Add it."
        for path, name, pair in zip(paths, names, found, strict=True)
        if pair is None
    )
    return [pair for pair in found if pair is not None]


def _too_small(path: Path, image: np.ndarray, smallest: int) -> list[str]:
    if min(image.shape[:2]) >= smallest:
        return []
    return [
        f"{path} is {_size(image)} pixels; training needs at least {smallest}x{smallest}. Remove it or use a smaller `patch`."
    ]


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
