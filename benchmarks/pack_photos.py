"""Pack photographs to train with into one folder of at most so many megabytes, to take them to another machine.

    python benchmarks/pack_photos.py PHOTOS [PHOTOS ...] -o PACK [--megabytes 55] [--side 0]

Encodes every photograph as AVIF with the highest quality with which all of them fit, estimated from a sample and lowered until
they do. --side reduces those with a longer side first. PACK must not exist or be empty. Prints quality, number and size.
"""

from __future__ import annotations

import argparse
import io
import os
import random
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image

from srcli.io.atomic import atomic_write
from srcli.io.read import read_srgb
from srcli.training.folder import find_photos

QUALITIES = range(40, 96)
SAMPLE = 24
"""Photographs whose sizes stand for all."""

MEGABYTE = 1_000_000


def encoded(path: Path, side: int, quality: int) -> bytes:
    """The photograph as AVIF."""
    image = Image.fromarray(read_srgb(path))
    if side and max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "AVIF", quality=quality, speed=8)
    return file.getvalue()


def total(files: Iterable[bytes]) -> int:
    return sum(len(file) for file in files)


def best_quality(paths: list[Path], side: int, limit: float) -> int:
    """The highest quality with which the sample takes no more than its share of `limit` bytes."""
    sample = random.Random(0).sample(paths, min(SAMPLE, len(paths)))
    share = limit * len(sample) / len(paths)
    low, high = QUALITIES[0], QUALITIES[-1]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while low < high:
            middle = (low + high + 1) // 2
            fits = total(pool.map(partial(encoded, side=side, quality=middle), sample)) <= share
            low, high = (middle, high) if fits else (low, middle - 1)
    return low


def pack(folders: list[Path], output: Path, limit: float, side: int) -> tuple[int, int, int]:
    """Write the pack. Returns quality, number of photographs and bytes."""
    found = [(folder, path) for folder in folders for path in find_photos(folder)[0]]
    output.mkdir(parents=True, exist_ok=True)
    if any(output.iterdir()):
        raise SystemExit(f"{output} is not empty. Choose another folder.")
    paths = [path for _, path in found]
    quality = best_quality(paths, side, limit)
    while True:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            files = list(pool.map(partial(encoded, side=side, quality=quality), paths))
        size = total(files)
        if size <= limit:
            break
        if quality <= 1:
            raise SystemExit(f"{len(paths)} photographs take more than {limit / MEGABYTE:g} MB. Reduce them with --side.")
        quality = max(1, quality - 2)
    for (folder, path), content in zip(found, files, strict=True):
        name = "-".join((folder.name, *path.relative_to(folder).with_suffix("").parts))
        with atomic_write(output / f"{name}{path.suffix.replace('.', '-')}.avif") as part:
            part.write_bytes(content)
    return quality, len(files), size


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=55.0)
    parser.add_argument("--side", type=int, default=0)
    options = parser.parse_args(arguments)
    quality, count, size = pack(options.photos, options.output, options.megabytes * MEGABYTE, options.side)
    print(f"{options.output}: {count} photographs, AVIF quality {quality}, {size / MEGABYTE:.1f} MB")


if __name__ == "__main__":
    main()
