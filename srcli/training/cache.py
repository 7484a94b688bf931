"""A cache of decoded images in a memory-mapped file, so that they are decoded once and only used parts take memory.

Each folder of images has two files: the pixels of all images, and an index of their sizes. The names of both contain a hash of
the path, size and modification time of every image, so that a change decodes the folder again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np

from srcli.errors import SrcliError
from srcli.io.atomic import atomic_write

FORMAT = 1
"""Increased whenever decoding changes the pixels of an image."""

Decoded = np.ndarray | SrcliError
"""An image, H x W x 3 uint8, or the reason why it cannot be read."""


def user_cache() -> Path:
    """srcli's folder in the user's cache folder."""
    from platformdirs import user_cache_path

    return user_cache_path("srcli")


def decode(paths: Sequence[Path], read: Callable[[Path], np.ndarray], on_image: Callable[[], None]) -> Iterator[Decoded]:
    """Decode images in order, several at a time in threads, as decoding releases the GIL."""
    workers = os.cpu_count() or 1
    remaining = iter(paths)
    with ThreadPoolExecutor(workers) as pool:
        while chunk := list(islice(remaining, 4 * workers)):  # limits the images in memory
            for result in pool.map(lambda path: _decoded(read, path), chunk):
                on_image()
                yield result


def _decoded(read: Callable[[Path], np.ndarray], path: Path) -> Decoded:
    try:
        return read(path)
    except SrcliError as error:
        return error


def decode_cached(
    paths: Sequence[Path],
    read: Callable[[Path], np.ndarray],
    on_image: Callable[[], None],
    *,
    folder: Path,
    name: str,
) -> list[Decoded]:
    """Like `decode`, but from the cache in `folder`, which is filled first if necessary.

    name: of the collection, of which only the latest state is kept. If an image cannot be read, nothing is written, and only
    the reasons are returned.
    Raises SrcliError if the cache cannot be written.
    """
    collection = hashlib.sha256(name.encode()).hexdigest()[:16]
    key = _key(paths)
    index, pixels = (folder / f"{collection}-{key}.{ending}" for ending in ("json", "pixels"))
    if not _is_complete(index, pixels):
        errors = _fill(decode(paths, read, on_image), index, pixels)
        if errors:
            return errors
        for old in folder.glob(f"{collection}-*"):
            if old not in (index, pixels):
                with suppress(OSError):  # another run may be reading it
                    old.unlink()
    return _mapped(index, pixels)


def _key(paths: Sequence[Path]) -> str:
    files = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps([FORMAT, files]).encode()).hexdigest()[:16]


def _is_complete(index: Path, pixels: Path) -> bool:
    """Whether both files exist, and the pixels, which are written before the index, have not been truncated since."""
    try:
        size: int = sum(3 * height * width for height, width in json.loads(index.read_text()))
        return size == pixels.stat().st_size
    except (OSError, ValueError):
        return False


def _fill(results: Iterator[Decoded], index: Path, pixels: Path) -> list[Decoded]:
    """Write both files. If there is an error, write neither and return the reasons."""
    errors: list[Decoded] = []
    try:
        with suppress(_Incomplete), atomic_write(pixels) as part:
            shapes: list[tuple[int, int]] = []
            with part.open("wb") as file:
                for result in results:
                    if isinstance(result, SrcliError):
                        errors.append(result)
                    elif not errors:
                        shapes.append((result.shape[0], result.shape[1]))
                        file.write(np.ascontiguousarray(result).data)
            if errors:
                raise _Incomplete
        if not errors:
            with atomic_write(index) as part:
                part.write_text(json.dumps(shapes))
    except SrcliError as error:
        raise SrcliError(
            f"{error} The file is for decoded photographs; set `cache` to another folder, or use `cache=none`."
        ) from None
    return errors


class _Incomplete(Exception):
    """Cancels an atomic write."""


def _mapped(index: Path, pixels: Path) -> list[Decoded]:
    flat = np.asarray(np.memmap(pixels, dtype=np.uint8, mode="r"))  # slicing an array is faster than slicing a memmap
    images: list[Decoded] = []
    place = 0
    for height, width in json.loads(index.read_text()):
        size = 3 * height * width
        images.append(flat[place : place + size].reshape(height, width, 3))
        place += size
    return images
