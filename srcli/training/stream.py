"""Photographs that do not fit into memory or onto the disk when they are decoded: they are read in chunks, in turn.

Each process reads files of its own, in another order in each epoch. A step takes its crops from one chunk, while the next is
read. Which chunk that is depends on the step alone, and what is in it on the position at which it begins, so a run that is
resumed at this position gets the same crops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Lock
from typing import NamedTuple, Protocol

import numpy as np

from srcli.errors import SrcliError, counted
from srcli.io.read import read_srgb
from srcli.training.cache import Decoded, decode, hash_of
from srcli.training.dataset import PhotoDataset, checked

CHUNK_PIXELS = 150_000_000
"""Pixels of the photographs in a chunk. Three chunks are in memory at a time, 450 MB each."""

ORDER_STREAM = 2**31 + 1
"""Number of the random stream for the order of the files, which is not used by any training step."""


class Position(NamedTuple):
    """How much a process has read: whole epochs, files or shards of this epoch, and samples of this shard."""

    epoch: int = 0
    files: int = 0
    samples: int = 0


@dataclass(frozen=True)
class Part:
    """The files that one of `size` processes reads, in an order that depends on the seed and the epoch."""

    seed: int
    rank: int = 0
    size: int = 1

    def numbers(self, files: int, epoch: int) -> np.ndarray:
        """The numbers of its files. No two processes have the same."""
        return np.random.default_rng([self.seed, ORDER_STREAM, epoch]).permutation(files)[self.rank :: self.size]

    def epochs(self, position: Position, files: int) -> float:
        """How many epochs the position is from the start. files: of all processes."""
        return position.epoch + position.files / len(range(self.rank, files, self.size))


class Source(Protocol):
    """Photographs in a folder or in shards."""

    @property
    def description(self) -> str:
        """What there is to train on."""

    @property
    def fingerprint(self) -> str:
        """A hash of the names of the files."""

    def epochs(self, position: Position) -> float:
        """How many epochs the position is from the start."""

    def read(self, start: Position) -> Iterator[tuple[str, Decoded, Position]]:
        """The photographs from a position on, without end: name, pixels, and the position after it."""


class FolderSource:
    """The photographs with these paths."""

    def __init__(self, paths: Sequence[Path], part: Part, *, megapixels: float) -> None:
        """megapixels: of all photographs, about. Raises SrcliError if there are fewer photographs than processes."""
        if len(paths) < part.size:
            raise SrcliError(
                f"There are only {counted(len(paths), 'photograph')} for {part.size} processes. Use fewer processes."
            )
        self.paths, self.part, self.megapixels = paths, part, megapixels

    @property
    def description(self) -> str:
        return f"{counted(len(self.paths), 'photograph')} to train on, about {self.megapixels:.0f} megapixels, read in chunks"

    @property
    def fingerprint(self) -> str:
        return hash_of("\n".join(map(str, self.paths)))

    def epochs(self, position: Position) -> float:
        return self.part.epochs(position, len(self.paths))

    def read(self, start: Position) -> Iterator[tuple[str, Decoded, Position]]:
        for epoch in count(start.epoch):
            first = start.files if epoch == start.epoch else 0
            chosen = [self.paths[number] for number in self.part.numbers(len(self.paths), epoch)[first:]]
            for done, (path, photo) in enumerate(zip(chosen, decode(chosen, read_srgb, lambda: None), strict=True), first + 1):
                yield str(path), photo, Position(epoch, done)


class _Chunk(NamedTuple):
    photos: PhotoDataset
    start: Position
    end: Position


class StreamedPhotos:
    """Photographs of a source, as one `PhotoDataset` after another."""

    def __init__(
        self,
        source: Source,
        *,
        smallest: int,
        steps_per_chunk: int,
        strict: bool = False,
        first: int = 0,
        start: Position = Position(),  # noqa: B008, a tuple
        on_left_out: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Begins to read.

        smallest: shortest side of a photograph in pixels. steps_per_chunk: after which the next chunk is used. first, start:
        the first step, and the position of its chunk. strict: raise SrcliError for a photograph that is too small or cannot be
        read; otherwise it is left out, and on_left_out is called with a sentence, in another thread.
        """
        self.source, self.smallest, self.steps_per_chunk, self.strict = source, smallest, steps_per_chunk, strict
        self.description, self.fingerprint = source.description, source.fingerprint
        self.on_left_out = on_left_out
        self._photos = source.read(start)
        self._lock = Lock()
        self._chunks: dict[int, _Chunk] = {}
        self._next = first // steps_per_chunk
        self._pool = ThreadPoolExecutor(1)
        self._reading: Future[_Chunk] = self._pool.submit(self._read_chunk, start)

    def at(self, step: int) -> PhotoDataset:
        """The photographs for a step, the number of steps before it. Steps are asked for in order, and again soon after.

        Raises SrcliError if there is no photograph that can be used.
        """
        return self._chunk(step).photos

    def position(self, step: int) -> Position:
        """Where the chunk of a step begins."""
        return self._chunk(step).start

    def epoch(self, step: int) -> float:
        """How many epochs were read before a step."""
        chunk = self._chunk(step)
        begin, end = self.source.epochs(chunk.start), self.source.epochs(chunk.end)
        return begin + (end - begin) * (step % self.steps_per_chunk) / self.steps_per_chunk

    def close(self) -> None:
        """Stop reading, after the photograph that is being read."""
        self._closed = True
        self._pool.shutdown()

    def _chunk(self, step: int) -> _Chunk:
        number = step // self.steps_per_chunk
        with self._lock:
            while self._next <= number:
                chunk = self._chunks[self._next] = self._reading.result()
                self._next += 1
                self._chunks.pop(self._next - 3, None)
                self._reading = self._pool.submit(self._read_chunk, chunk.end)
            return self._chunks[number]

    _closed = False

    def _read_chunk(self, start: Position) -> _Chunk:
        """Read until there are CHUNK_PIXELS or the photographs of an epoch."""
        names: list[str] = []
        images: list[np.ndarray] = []
        pixels, end = 0, start
        while pixels < CHUNK_PIXELS and self.source.epochs(end) - self.source.epochs(start) < 1 and not self._closed:
            name, photo, end = next(self._photos)
            try:
                images.append(checked(Path(name), photo, self.smallest))
                names.append(name)
                pixels += images[-1].shape[0] * images[-1].shape[1]
            except SrcliError as error:
                if self.strict or (not images and self.source.epochs(end) - self.source.epochs(start) >= 1):
                    raise
                self.on_left_out(str(error))
        return _Chunk(PhotoDataset(tuple(names), tuple(images)), start, end)
