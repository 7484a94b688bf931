"""A folder of photographs in, seeded batches of true crops out."""

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

from srcli.errors import SrcliError
from srcli.io.discover import find_images
from srcli.io.read import read_srgb
from srcli.training.cache import decode, decode_cached, user_cache


@dataclass(frozen=True)
class TrainBatch:
    """What one step learns from.

    hr: N x P x P x 3 uint8, as they lie in the photographs. lr: the same places of the given small images, or None where
    they are to be made. turns: N x 3 bool, whether a crop is to be transposed, flipped upside down, and mirrored.
    """

    hr: np.ndarray
    lr: np.ndarray | None
    augmentations: np.ndarray


@dataclass(frozen=True)
class PhotoDataset:
    """Photographs, H x W x 3 uint8, and crops of them that depend on nothing but seed and step.

    names: one for each, from the folder. small: where pairs are given, the small image of each, `scale` times smaller.
    """

    names: tuple[str, ...]
    images: tuple[np.ndarray, ...]
    small: tuple[np.ndarray, ...] | None = None
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
        """Every image in the folder and below. All that is wrong is found before anything is trained, by file.

        cache: a folder for the decoded images, `auto` for the user's, `none` to hold them in memory. lr_data: a folder
        with the small image of each, under the same name or with x`scale` after it. on_image: called for each decoded.
        Raises SrcliError: no image, an unreadable one, one with a side under `smallest` pixels, pairs that do not fit.
        """
        paths = find_images(folder)
        names = tuple(str(path.relative_to(folder)) for path in paths)
        large = _read_all(folder, paths, smallest, cache, on_image)
        if lr_data is None:
            return cls(names, large)
        pairs = _pairs(folder, paths, lr_data, scale)
        small = _read_all(lr_data, pairs, smallest // scale, cache, on_image)
        _refuse(
            f"{path} is {_size(given)} pixels and its photograph {_size(true)}; "
            f"it must be exactly {scale} times smaller. Make it anew."
            for path, given, true in zip(pairs, small, large, strict=True)
            if true.shape[:2] != (given.shape[0] * scale, given.shape[1] * scale)
        )
        return cls(names, large, small, scale)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def megapixels(self) -> float:
        return float(sum(image.shape[0] * image.shape[1] for image in self.images) / 1e6)

    @property
    def fingerprint(self) -> str:
        """Of names and sizes: a resumed run repeats an uninterrupted one only if it is the same."""
        known = [(name, *image.shape) for name, image in zip(self.names, self.images, strict=True)]
        return hashlib.sha256(repr(known).encode()).hexdigest()[:16]

    def crops(self, patch: int) -> int:
        """How many crops lie side by side in the photographs: what one epoch is."""
        return sum((image.shape[0] // patch) * (image.shape[1] // patch) for image in self.images)

    def split(self, share: float, *, seed: int) -> tuple[PhotoDataset, PhotoDataset]:
        """Those for training and those held out: `share` of them, at least one, chosen by the seed.

        Raises SrcliError where nothing would be left to train on.
        """
        held = max(1, round(share * len(self)))
        if held >= len(self):
            raise SrcliError(
                f"There are {len(self)} photographs, and {held} of them would be held out for validation. "
                "Add photographs, name others with --val, or train without with --val-split 0."
            )
        order = np.random.default_rng([seed, len(self)]).permutation(len(self))
        return self._some(sorted(order[held:])), self._some(sorted(order[:held]))

    def _some(self, numbers: Sequence[int]) -> PhotoDataset:
        return PhotoDataset(
            tuple(self.names[i] for i in numbers),
            tuple(self.images[i] for i in numbers),
            None if self.small is None else tuple(self.small[i] for i in numbers),
            self.scale,
        )

    def batch(self, step: int, *, seed: int, size: int, patch: int, part: slice = slice(None)) -> TrainBatch:
        """`size` crops of `patch` pixels, or that `part` of them which a process takes.

        A pure function of its arguments: a resumed run sees what an uninterrupted one would have seen, and runs with
        different losses or generators see the same crops. Large photographs are met more often than small ones.
        """
        random = np.random.default_rng([seed, step])
        chosen = self._choose(random, size)[part]
        places = random.random((size, 2))[part]
        augmentations = (random.random((size, 3)) < 0.5)[part]
        hr = np.empty((len(chosen), patch, patch, 3), dtype=np.uint8)
        lr = (
            None if self.small is None else np.empty((len(chosen), patch // self.scale, patch // self.scale, 3), dtype=np.uint8)
        )
        grid = self.scale if self.small is not None else 1  # crops of a pair begin where both have a pixel
        for number, (index, place) in enumerate(zip(chosen, places, strict=True)):
            image = self.images[index]
            top, left = (int(at * ((side - patch) // grid + 1)) for at, side in zip(place, image.shape[:2], strict=True))
            hr[number] = image[top * grid : top * grid + patch, left * grid : left * grid + patch]
            if lr is not None and self.small is not None:
                lr[number] = self.small[index][top : top + lr.shape[1], left : left + lr.shape[2]]
        return TrainBatch(hr, lr, augmentations)

    def source_names(self, step: int, *, seed: int, size: int) -> list[str]:
        """The photographs that the batch of that step is taken from."""
        return sorted({self.names[index] for index in self._choose(np.random.default_rng([seed, step]), size)})

    def _choose(self, random: np.random.Generator, size: int) -> np.ndarray:
        places: np.ndarray = np.searchsorted(self._ends, random.random(size) * self._ends[-1], side="right")
        return places

    @cached_property
    def _ends(self) -> np.ndarray:
        """Where each image ends if all their pixels stand in one row."""
        return np.cumsum([image.shape[0] * image.shape[1] for image in self.images])


def prefetched(make: Callable[[int], TrainBatch], first: int) -> Iterator[TrainBatch]:
    """make(first), make(first + 1) and so on, made by a thread while the one before is used."""
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(make, first + ahead) for ahead in range(2))
        for step in count(first + 2):
            crops = waiting.popleft().result()
            waiting.append(pool.submit(make, step))
            yield crops


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
    # from the cache they come unchecked
    _refuse(sentence for path, image in zip(paths, images, strict=True) for sentence in _too_small(path, image, smallest))
    return images


def _refuse(sentences: Iterable[str]) -> None:
    """Raise one SrcliError of them all, if there is any."""
    wrong = list(sentences)
    if wrong:
        more = f"\n({len(wrong) - 20} more images have the like.)" if len(wrong) > 20 else ""
        raise SrcliError("\n".join(wrong[:20]) + more)


def _pairs(folder: Path, paths: Sequence[Path], lr_data: Path, scale: int) -> list[Path]:
    """The small image of each photograph."""
    by_name = {path.relative_to(lr_data).with_suffix(""): path for path in find_images(lr_data)}
    names = [path.relative_to(folder).with_suffix("") for path in paths]
    found = [by_name.get(name) or by_name.get(name.with_name(f"{name.name}x{scale}")) for name in names]
    _refuse(
        f"{path} has no small image: there is neither {name} nor {name}x{scale} in {lr_data}. Add it."
        for path, name, pair in zip(paths, names, found, strict=True)
        if pair is None
    )
    return [pair for pair in found if pair is not None]


def _too_small(path: Path, image: np.ndarray, smallest: int) -> list[str]:
    if min(image.shape[:2]) >= smallest:
        return []
    return [
        f"{path} is {_size(image)} pixels; training needs at least {smallest}x{smallest}. Remove it or use a smaller --patch."
    ]


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
