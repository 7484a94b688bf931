"""A cache of decoded images in a memory-mapped file, so that they are decoded once and only used parts take memory.

Each folder of images has two files: the pixels of all images, and an index of their sizes. The names of both contain a hash of
the path, size and modification time of every image, so that a change decodes the folder again. What was not used for a while is
removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from srcli.errors import SrcliError
from srcli.io.atomic import atomic_write, remove_all_stale_temp_files

FORMAT = 2
"""Increased whenever decoding changes the pixels of an image."""

KEPT_DAYS = 90
"""Days without use after which a file is removed from the cache."""

CHECKED_BYTES = 2**32
"""How much of a cache is checked for damage when it is opened."""

Decoded = np.ndarray | SrcliError
"""An image, H x W x 3 uint8, or the reason why it cannot be read."""


Encoded = TypeVar("Encoded")


def decode(images: Iterable[Encoded], read: Callable[[Encoded], np.ndarray], on_image: Callable[[], None]) -> Iterator[Decoded]:
    """Decode images in order, several at a time in threads, as decoding releases the GIL."""
    workers = os.cpu_count() or 1
    remaining = iter(images)
    with ThreadPoolExecutor(workers) as pool:
        while chunk := list(islice(remaining, 4 * workers)):  # limits the images in memory
            for result in pool.map(lambda image: _decoded(read, image), chunk):
                on_image()
                yield result


def _decoded(read: Callable[[Encoded], np.ndarray], image: Encoded) -> Decoded:
    try:
        return read(image)
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

    name: of the collection, of which only the latest state is kept.
    Raises SrcliError if the cache cannot be written.
    """
    collection = hash_of(name)
    key = _key(paths)
    index, pixels = (folder / f"{collection}-{key}.{ending}" for ending in ("json", "pixels"))
    entries = _read_index(index)
    if entries is None or len(entries) != len(paths) or not _is_undamaged(entries, pixels):
        remove_all_stale_temp_files(folder)
        entries = _fill(decode(paths, read, on_image), index, pixels)
        for old in folder.glob(f"{collection}-*"):
            if old not in (index, pixels):
                with suppress(OSError):  # another run may be reading it
                    old.unlink()
    mark_used([index])
    for unused in unused_files(folder.glob("*.json")):
        if re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]{16}", unused.stem):
            for old in (unused.with_suffix(".pixels"), unused):
                with suppress(OSError):
                    old.unlink()
    images = _mapped(entries, pixels)
    return [image if image.size else _decoded(read, path) for path, image in zip(paths, images, strict=True)]


def room_for(folder: Path, name: str) -> int:
    """Bytes that the decoded images of a collection can take: the free space and what they take now."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free + sum(file.stat().st_size for file in folder.glob(f"{hash_of(name)}-*"))


def hash_of(name: str) -> str:
    """16 hexadecimal digits."""
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:16]


def mark_used(files: Iterable[Path]) -> None:
    """Set the date of the last access, which some file systems do not set themselves."""
    for file in files:
        with suppress(OSError):  # the cache may belong to someone else
            os.utime(file, ns=(time.time_ns(), file.stat().st_mtime_ns))


def unused_files(files: Iterable[Path]) -> list[Path]:
    """Those that were neither written nor marked as used for KEPT_DAYS."""
    since = time.time() - KEPT_DAYS * 86_400
    dated = [(file, file.stat()) for file in files]
    return [file for file, status in dated if max(status.st_atime, status.st_mtime) < since]


def _key(paths: Sequence[Path]) -> str:
    files = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hash_of(json.dumps([FORMAT, files]))


def _read_index(index: Path) -> list[tuple[int, int, int]] | None:
    """Height, width and CRC-32 of each image, 0 for one that cannot be read. None if the file is missing or damaged."""
    try:
        entries = [(height, width, crc) for height, width, crc in json.loads(index.read_text())]
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    valid = all(type(number) is int for entry in entries for number in entry) and all(min(entry[:2]) >= 0 for entry in entries)
    return entries if valid else None


def _is_undamaged(entries: list[tuple[int, int, int]], pixels: Path) -> bool:
    """Whether the file has the size and the checksums in the index. Of a very large cache, a random part is checked."""
    if not pixels.is_file() or sum(3 * height * width for height, width, _ in entries) != pixels.stat().st_size:
        return False
    images = list(zip(_mapped(entries, pixels), (crc for *_, crc in entries), strict=True))
    if pixels.stat().st_size > CHECKED_BYTES:
        images = random.sample(images, max(1, len(images) * CHECKED_BYTES // pixels.stat().st_size))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # crc32 releases the GIL
        return all(pool.map(lambda image: zlib.crc32(image[0].data) == image[1], images))


def _fill(results: Iterator[Decoded], index: Path, pixels: Path) -> list[tuple[int, int, int]]:
    """Write both files, and return the content of the index."""
    entries: list[tuple[int, int, int]] = []
    try:
        with atomic_write(pixels) as part, part.open("wb") as file:
            for result in results:
                content = np.empty((0, 0, 3), np.uint8) if isinstance(result, SrcliError) else np.ascontiguousarray(result)
                entries.append((content.shape[0], content.shape[1], zlib.crc32(content.data)))
                file.write(content.data)
        with atomic_write(index) as part:
            part.write_text(json.dumps(entries))
    except SrcliError as error:
        raise SrcliError(
            f"{error} The file is for decoded photographs; set `cache` to another folder, or use `cache=none`."
        ) from None
    return entries


def _mapped(entries: list[tuple[int, int, int]], pixels: Path) -> list[np.ndarray]:
    flat = np.asarray(np.memmap(pixels, dtype=np.uint8, mode="r"))  # slicing an array is faster than slicing a memmap
    images: list[np.ndarray] = []
    place = 0
    for height, width, _ in entries:
        size = 3 * height * width
        images.append(flat[place : place + size].reshape(height, width, 3))
        place += size
    return images
