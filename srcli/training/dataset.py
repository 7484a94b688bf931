"""A folder of photographs, and seeded batches of crops from them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TypeVar

import numpy as np

from srcli.errors import SrcliError, counted
from srcli.io.discover import find_images
from srcli.io.files import user_cache
from srcli.io.read import read_srgb
from srcli.training.cache import Decoded, decode, decode_cached, hash_of
from srcli.training.folder import find_photos


@dataclass(frozen=True)
class TrainBatch:
    """The crops of one step.

    hr: N x P x P x 3 uint8, not yet augmented. lr: the same regions of the given LR images, or None if LR images are computed.
    augmentations: N x 3 bool, whether to transpose, flip vertically, and flip horizontally. labels: the same regions of the
    teacher's labels, if there is a teacher. unlabeled: N bool, which crops have no ground truth, so that hr is the label as
    well. small: their clean inputs, N x P / scale x P / scale x 3 uint8, 0 for the others.
    """

    hr: np.ndarray
    lr: np.ndarray | None
    augmentations: np.ndarray
    labels: np.ndarray | None = None
    unlabeled: np.ndarray | None = None
    small: np.ndarray | None = None


@dataclass(frozen=True)
class Regions:
    """Where the crops of one step are.

    numbers, tops, lefts: of each crop its photograph, first row and first column in HR pixels. patch: their side. augmentations
    and unlabeled: as in `TrainBatch`.
    """

    numbers: np.ndarray
    tops: np.ndarray
    lefts: np.ndarray
    patch: int
    augmentations: np.ndarray
    unlabeled: np.ndarray | None = None


@dataclass(frozen=True)
class UnlabeledImages:
    """Inputs without ground truth, one for each photograph, and labels of a teacher, `scale` times as large."""

    images: tuple[np.ndarray, ...]
    labels: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class PhotoDataset:
    """Photographs, H x W x 3 uint8, and crops of them that depend only on seed and step.

    names: paths in the folder. lr_images: for given pairs, the LR image of each photograph, `scale` times smaller. labels: of
    a teacher, each with the size of its photograph.
    """

    names: tuple[str, ...]
    images: tuple[np.ndarray, ...]
    lr_images: tuple[np.ndarray, ...] | None = None
    scale: int = 1
    left_out: tuple[str, ...] = ()
    """Why images in the folder are not used, a sentence each."""
    ignored: Mapping[str, int] = field(default_factory=dict)
    """How many images in the folder were left out without being read, by kind. See `find_photos`."""
    labels: tuple[np.ndarray, ...] | None = None
    unlabeled: UnlabeledImages | None = None

    @classmethod
    def read(
        cls,
        folder: Path,
        *,
        smallest: int,
        cache: str = "none",
        lr_data: Path | None = None,
        scale: int = 1,
        strict: bool = False,
        on_image: Callable[[], None] = lambda: None,
    ) -> PhotoDataset:
        """Read the photographs in the folder and its subfolders that `find_photos` finds.

        smallest: shortest side of a photograph in pixels. cache: a folder for decoded images, `auto` for the user's cache
        folder, `none` for memory. lr_data: a folder with the LR image of each photograph, with the same name or `x{scale}`
        appended; a photograph with up to `scale` - 1 more pixels is cropped. strict: see Raises. on_image: called after each
        decoded image.
        Raises SrcliError if no usable image is left, or, if `strict`, if any image is unreadable, too small, or does not match
        its pair.
        """
        paths, ignored = find_photos(folder)
        photos = _decode_all(folder, paths, cache, on_image)
        pairs = _decode_pairs(folder, paths, lr_data, scale, cache, on_image) if lr_data is not None else None
        names: list[str] = []
        images: list[np.ndarray] = []
        lr_images: list[np.ndarray] = []
        left_out: list[str] = []
        for number, (path, photo) in enumerate(zip(paths, photos, strict=True)):
            try:
                image = checked(path, photo, smallest)
                if pairs is not None:
                    pair, lr = pairs[number]
                    image, lr = _cropped(pair, image, checked(pair, lr, smallest // scale), scale)
                    lr_images.append(lr)
                images.append(image)
                names.append(str(path.relative_to(folder)))
            except SrcliError as error:
                left_out.append(str(error))
        if left_out and (strict or not images):
            raise SrcliError("\n".join(shortened(left_out)))
        if pairs is None:
            return cls(tuple(names), tuple(images), left_out=tuple(left_out), ignored=ignored)
        return cls(tuple(names), tuple(images), tuple(lr_images), scale, tuple(left_out), ignored)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def megapixels(self) -> float:
        return float(sum(image.shape[0] * image.shape[1] for image in self.images) / 1e6)

    @property
    def fingerprint(self) -> str:
        """A hash of names and sizes. A resumed run equals an uninterrupted one only if it is unchanged."""
        known = [(name, *image.shape) for name, image in zip(self.names, self.images, strict=True)]
        return hash_of(repr(known))

    @property
    def description(self) -> str:
        return f"{counted(len(self), 'photograph')} to train on, {self.megapixels:.1f} megapixels"

    @staticmethod
    def collection(folder: Path) -> str:
        """The name of a folder in the cache."""
        return str(folder.resolve())

    def at(self, _step: int) -> PhotoDataset:
        """The photographs for a step: always all."""
        return self

    def crops(self, patch: int) -> int:
        """The number of crops that fit into the photographs without overlap: one epoch."""
        return sum((image.shape[0] // patch) * (image.shape[1] // patch) for image in self.images)

    def split(self, share: float, *, seed: int, least: int = 1) -> tuple[PhotoDataset, PhotoDataset]:
        """The photographs to train on, and those held out: `share` of them, but at least `least`, chosen by the seed.

        Raises SrcliError if none would be left to train on.
        """
        held = held_out_numbers(len(self), share, seed=seed, least=least)
        return self._subset(sorted({*range(len(self))} - {*held})), self._subset(held)

    def _subset(self, numbers: Sequence[int]) -> PhotoDataset:
        return replace(
            self,
            names=tuple(self.names[i] for i in numbers),
            images=tuple(self.images[i] for i in numbers),
            lr_images=None if self.lr_images is None else tuple(self.lr_images[i] for i in numbers),
        )

    def regions(self, step: int, *, seed: int, size: int, patch: int, part: slice = slice(None)) -> Regions:
        """Where the crops of `batch` are."""
        random = np.random.default_rng([seed, step])
        chosen = self._choose(random, size)[part]
        places = random.random((size, 2))[part]
        augmentations = (random.random((size, 3)) < 0.5)[part]
        unlabeled = None if self.unlabeled is None else (random.random(size) < 0.5)[part]
        aligned = self.lr_images is not None or self.labels is not None
        grid = self.scale if aligned else 1  # crops of pairs and labels start at a pixel of the LR image
        corners = np.empty((2, len(chosen)), dtype=np.int64)
        for number, (index, place) in enumerate(zip(chosen, places, strict=True)):
            alone = self.unlabeled if unlabeled is not None and unlabeled[number] else None
            sides = (self.images if alone is None else alone.labels)[index].shape[:2]
            corners[:, number] = [int(at * ((side - patch) // grid + 1)) * grid for at, side in zip(place, sides, strict=True)]
        return Regions(chosen, corners[0], corners[1], patch, augmentations, unlabeled)

    def batch(self, step: int, *, seed: int, size: int, patch: int, part: slice = slice(None)) -> TrainBatch:
        """`size` crops of `patch` x `patch` pixels, or the `part` of them that one process takes.

        A pure function of its arguments: a resumed run gets the same crops as an uninterrupted one, and so do runs with other
        losses or generators. Photographs are chosen in proportion to their pixels. If there are unlabeled inputs, half of the
        crops are from them.
        """
        regions = self.regions(step, seed=seed, size=size, patch=patch, part=part)
        unlabeled = regions.unlabeled
        count, side = len(regions.numbers), patch // self.scale
        hr = np.empty((count, patch, patch, 3), dtype=np.uint8)
        lr = None if self.lr_images is None else np.empty((count, side, side, 3), dtype=np.uint8)
        labels = None if self.labels is None else np.empty_like(hr)
        small = None if unlabeled is None else np.zeros((count, side, side, 3), dtype=np.uint8)
        for number, (index, top, left) in enumerate(zip(regions.numbers, regions.tops, regions.lefts, strict=True)):
            image, label = self.images[index], None if self.labels is None else self.labels[index]
            alone = self.unlabeled if unlabeled is not None and unlabeled[number] else None
            if alone is not None:
                image = label = alone.labels[index]
            rows, columns = (slice(start, start + patch) for start in (top, left))
            lr_rows, lr_columns = (slice(start // self.scale, start // self.scale + side) for start in (top, left))
            hr[number] = image[rows, columns]
            if labels is not None and label is not None:
                labels[number] = label[rows, columns]
            if alone is not None and small is not None:
                small[number] = alone.images[index][lr_rows, lr_columns]
            if lr is not None and self.lr_images is not None:
                lr[number] = self.lr_images[index][lr_rows, lr_columns]
        return TrainBatch(hr, lr, regions.augmentations, labels, unlabeled, small)

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


def held_out_numbers(photos: int, share: float, *, seed: int, least: int = 1) -> list[int]:
    """The numbers of the photographs that are held out: `share` of them, but at least `least`, chosen by the seed.

    Raises SrcliError if none would be left to train on.
    """
    held = max(least, round(share * photos))
    if held >= photos:
        raise SrcliError(
            f"There is only {counted(photos, 'photograph')}, and {held} would be held out for validation. "
            "Add photographs, set `val` to another folder, or train without validation with `val_split=0`."
        )
    return sorted(np.random.default_rng([seed, photos]).permutation(photos)[:held].tolist())


def cache_folder(cache: str) -> Path | None:
    """The folder of the setting `cache`, None for memory."""
    return None if cache == "none" else user_cache() if cache == "auto" else Path(cache)


Made = TypeVar("Made")


def prefetched(make: Callable[[int], Made], first: int) -> Generator[Made, None, None]:
    """Yield make(first), make(first + 1) and so on, computed in a thread while the previous one is used."""
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(make, first + ahead) for ahead in range(2))
        for step in count(first + 2):
            batch = waiting.popleft().result()
            waiting.append(pool.submit(make, step))
            yield batch


def shortened(sentences: Sequence[str], most: int = 20) -> list[str]:
    """The first sentences, and how many more there are."""
    more = len(sentences) - most
    return [*sentences[:most], *([f"({more} more images have similar problems.)"] if more > 0 else [])]


def _decode_all(folder: Path, paths: Sequence[Path], cache: str, on_image: Callable[[], None]) -> list[Decoded]:
    where = cache_folder(cache)
    if where is None:
        return list(decode(paths, read_srgb, on_image))
    return decode_cached(paths, read_srgb, on_image, folder=where, name=PhotoDataset.collection(folder))


def _decode_pairs(
    folder: Path, paths: Sequence[Path], lr_data: Path, scale: int, cache: str, on_image: Callable[[], None]
) -> list[tuple[Path, Decoded]]:
    """The LR image of each photograph and its file."""
    by_name = {path.relative_to(lr_data).with_suffix(""): path for path in find_images(lr_data)}
    names = [path.relative_to(folder).with_suffix("") for path in paths]
    pairs = [by_name.get(name) or by_name.get(name.with_name(f"{name.name}x{scale}")) for name in names]
    decoded = iter(_decode_all(lr_data, [pair for pair in pairs if pair], cache, on_image))
    return [
        (pair, next(decoded))
        if pair
        else (path, SrcliError(f"{path} has no LR image: {lr_data} contains neither {name} nor {name}x{scale}. Add it."))
        for path, name, pair in zip(paths, names, pairs, strict=True)
    ]


def checked(path: Path, image: Decoded, smallest: int) -> np.ndarray:
    """The image. Raises SrcliError if it could not be read, or if its shorter side has fewer than `smallest` pixels."""
    if isinstance(image, SrcliError):
        raise image
    if min(image.shape[:2]) < smallest:
        raise SrcliError(
            f"{path} is {_size(image)} pixels; training needs at least {smallest}x{smallest}. "
            "Remove it or use a smaller `patch`."
        )
    return image


def _cropped(path: Path, photo: np.ndarray, lr: np.ndarray, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Photograph and LR image, cropped at the right and at the bottom so that one is `scale` times as large as the other.

    Raises SrcliError if their sizes differ by `scale` pixels or more.
    """
    if max(abs(large - small * scale) for small, large in zip(lr.shape[:2], photo.shape[:2], strict=True)) >= scale:
        raise SrcliError(
            f"{path} is {_size(lr)} pixels and its photograph is {_size(photo)}; it must be {scale} times smaller. "
            "Create it again."
        )
    height, width = (min(small, large // scale) for small, large in zip(lr.shape[:2], photo.shape[:2], strict=True))
    return photo[: height * scale, : width * scale], lr[:height, :width]


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
