"""Decoded images in one memory-mapped file, so that they are decoded once and take no more memory than is in use.

For each folder there are two files: the pixels of all its images one after the other, and an index that says where each
begins. The index carries the size and the time of every image's file; where one has changed, all is decoded anew.
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
"""Raised whenever the pixels of an image would come out otherwise than before."""

Decoded = np.ndarray | SrcliError
"""An image, H x W x 3 uint8, or why there is none."""


def user_cache() -> Path:
    """The folder for such files: srcli's in the cache folder of the user, as the system has it."""
    from platformdirs import user_cache_path

    return user_cache_path("srcli")


def decode(paths: Sequence[Path], read: Callable[[Path], np.ndarray], on_image: Callable[[], None]) -> Iterator[Decoded]:
    """Every image in order, some at a time in threads, as decoding is done outside Python."""
    workers = os.cpu_count() or 1
    remaining = iter(paths)
    with ThreadPoolExecutor(workers) as pool:
        while some := list(islice(remaining, 4 * workers)):  # no more of them wait in memory
            for result in pool.map(lambda path: _tried(read, path), some):
                on_image()
                yield result


def _tried(read: Callable[[Path], np.ndarray], path: Path) -> Decoded:
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
    """As `decode`, but from the cache in `folder` where it has these very files, and into it where it has not.

    name: of the collection, of which one state is kept. Where any image cannot be read, nothing is written, and the
    reasons are all that comes back.
    Raises SrcliError: the cache cannot be written.
    """
    collection = hashlib.sha256(name.encode()).hexdigest()[:16]
    key = _key(paths)
    index, pixels = (folder / f"{collection}-{key}.{ending}" for ending in ("json", "pixels"))
    if not _is_whole(index, pixels):
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


def _is_whole(index: Path, pixels: Path) -> bool:
    """The index is written last, so where it is, the pixels were; somebody may have cut them since."""
    try:
        size: int = sum(3 * height * width for height, width in json.loads(index.read_text()))
        return size == pixels.stat().st_size
    except (OSError, ValueError):
        return False


def _fill(results: Iterator[Decoded], index: Path, pixels: Path) -> list[Decoded]:
    """Write both files; or neither, and give back the reasons, where there is an error."""
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
            f"{error} It is for decoded photographs; choose another folder with --cache, or --cache none."
        ) from None
    return errors


class _Incomplete(Exception):
    """Ends the writing of a file that nobody could use."""


def _mapped(index: Path, pixels: Path) -> list[Decoded]:
    flat = np.asarray(np.memmap(pixels, dtype=np.uint8, mode="r"))  # slices of an array are made sooner than a memmap's
    images: list[Decoded] = []
    place = 0
    for height, width in json.loads(index.read_text()):
        size = 3 * height * width
        images.append(flat[place : place + size].reshape(height, width, 3))
        place += size
    return images
