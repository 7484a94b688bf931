"""The photographs of a run: in memory or in the cache, or, if they are in shards or do not fit, read in chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from srcli.config import TrainConfig
from srcli.errors import ConfigError, SrcliError
from srcli.inference.memory import free_memory
from srcli.io.read import count_pixels, read_srgb
from srcli.training import stream
from srcli.training.cache import decode, room_for
from srcli.training.dataset import PhotoDataset, cache_folder, checked, held_out_numbers
from srcli.training.folder import find_photos
from srcli.training.shards import ShardSource, are_shards
from srcli.training.stream import FolderSource, Part, Position, Source, StreamedPhotos
from srcli.training.trainer import crop_size
from srcli.training.validation import smallest_side

FEW_TO_VALIDATE = 5
"""Photographs below which validation scores say little."""

MOST_TO_VALIDATE = 100
"""Photographs that are held out of those that are read in chunks."""

CENTER = 1024
"""Longest side of the part of a photograph that is kept for validation if photographs are read in chunks."""

MEASURED = 64
"""Photographs whose size is read to estimate that of all."""

MOST_LEFT_OUT = 20
"""Photographs read in chunks that are named when they are left out."""


@dataclass(frozen=True)
class Reading:
    """How one of `size` processes reads photographs in chunks. positions: of all processes at the chunk of `step`, if known."""

    rank: int = 0
    size: int = 1
    step: int = 0
    positions: Sequence[Sequence[int]] = ()

    @property
    def start(self) -> Position:
        """Where the chunk of the step begins. If there is another number of processes than before, at the next epoch."""
        if len(self.positions) == self.size:
            return Position(*self.positions[self.rank])
        return Position(self.positions[0][0] + 1) if self.positions else Position()


def too_large(config: TrainConfig) -> str:
    """Why the photographs cannot be kept decoded, as a sentence; empty if they can. The size is estimated from some of them."""
    if config.photos is None or config.cache == "stream" or config.lr_data is not None or are_shards(config.photos):
        return ""
    folder = cache_folder(config.cache)
    needed = 3e6 * _megapixels(find_photos(Path(config.photos))[0])
    room = free_memory() if folder is None else room_for(folder, PhotoDataset.collection(Path(config.photos)))
    if needed <= 0.9 * room:
        return ""
    where = "free in memory" if folder is None else f"free for the cache in {folder}"
    return (
        f"The decoded photographs take about {needed / 1e9:.1f} GB, but only {room / 1e9:.1f} GB are {where}, "
        "so they are read in chunks, in turn."
    )


def read_photos(
    config: TrainConfig,
    on_image: Callable[[], None] = lambda: None,
    on_message: Callable[[str], None] = lambda _: None,
    *,
    chunks: Reading | None = None,
) -> tuple[PhotoDataset | StreamedPhotos, PhotoDataset | None]:
    """The photographs to train on and those to validate on. Raises SrcliError with everything that is wrong with any.

    on_image: called after each decoded image. on_message: called with a sentence for the user, in any thread. chunks: read the
    photographs in chunks. Those in shards always are.
    """
    assert config.photos is not None
    if config.val is not None and config.lr_data is not None:
        raise ConfigError("With `lr_data`, some of the pairs are used for validation: set `val_split` instead of `val`.")
    smallest = max(crop_size(config), smallest_side(config))

    def read(folder: str, lr_data: str | None = None) -> PhotoDataset:
        return PhotoDataset.read(
            Path(folder),
            smallest=smallest,
            cache="none" if config.cache == "stream" else config.cache,
            lr_data=Path(lr_data) if lr_data is not None else None,
            scale=config.generator.scale,
            strict=config.strict,
            on_image=on_image,
        )

    if chunks is not None or are_shards(config.photos):
        held_out = read(config.val) if config.val is not None else None
        return _read_in_chunks(config, smallest, on_message, chunks or Reading(), held_out)
    photos = read(config.photos, config.lr_data)
    if config.val is not None:
        return photos, read(config.val)
    if not config.val_split:
        return photos, None
    return photos.split(config.val_split, seed=config.seed, least=_least(config, len(photos)))


def _read_in_chunks(
    config: TrainConfig,
    smallest: int,
    on_message: Callable[[str], None],
    reading: Reading,
    held_out: PhotoDataset | None,
) -> tuple[StreamedPhotos, PhotoDataset | None]:
    assert config.photos is not None
    if config.teacher is not None or config.lr_data is not None:
        name = "teacher" if config.teacher is not None else "lr_data"
        raise ConfigError(f"`{name}` needs all photographs before the first step, but they are read in chunks. Leave it out.")
    part = Part(config.seed, reading.rank, reading.size)
    source: Source
    if are_shards(config.photos):
        source = ShardSource(config.photos, part)
        if held_out is None and config.val_split:
            on_message("Nothing is held out of shards for validation; set `val` to a folder of photographs.")
    else:
        paths = find_photos(Path(config.photos))[0]
        if held_out is None and config.val_split:
            most = min(MOST_TO_VALIDATE / len(paths), config.val_split)
            numbers = held_out_numbers(len(paths), most, seed=config.seed, least=_least(config, len(paths)))
            held_out = _centers([paths[number] for number in numbers], smallest)
            paths = [path for number, path in enumerate(paths) if number not in set(numbers)]
        source = FolderSource(paths, part, megapixels=_megapixels(paths))
    left_out = 0

    def tell(sentence: str) -> None:
        nonlocal left_out
        left_out += 1
        if left_out <= MOST_LEFT_OUT:
            on_message(f"Left out: {sentence}" + (" (Further ones are not named.)" if left_out == MOST_LEFT_OUT else ""))

    photos = StreamedPhotos(
        source,
        smallest=smallest,
        steps_per_chunk=max(1, stream.CHUNK_PIXELS // (crop_size(config) ** 2 * config.batch)),
        strict=config.strict,
        first=reading.step,
        start=reading.start,
        on_left_out=tell,
    )
    return photos, held_out


def _least(config: TrainConfig, photos: int) -> int:
    """The number of photographs to hold out at least."""
    return FEW_TO_VALIDATE if config.val_split == TrainConfig.val_split and photos >= 5 * FEW_TO_VALIDATE else 1


def _megapixels(paths: Sequence[Path]) -> float:
    """Of all photographs, estimated from some."""
    measured = paths[:: max(1, len(paths) // MEASURED)]
    return sum(count_pixels(path) for path in measured) / max(1, len(measured)) * len(paths) / 1e6


def _centers(paths: Sequence[Path], smallest: int) -> PhotoDataset:
    """The centers of photographs, which are all that validation uses. Raises SrcliError if none can be used."""
    names: list[str] = []
    images: list[np.ndarray] = []
    errors: list[SrcliError] = []
    for path, photo in zip(paths, decode(paths, read_srgb, lambda: None), strict=True):
        try:
            image = checked(path, photo, smallest)
        except SrcliError as error:
            errors.append(error)
            continue
        top, left = ((side - min(side, CENTER)) // 2 for side in image.shape[:2])
        images.append(image[top : top + CENTER, left : left + CENTER].copy())
        names.append(path.name)
    if not images:
        raise errors[0]
    return PhotoDataset(tuple(names), tuple(images))
