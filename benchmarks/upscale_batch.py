"""How busy does a folder of images keep the processor?

    python benchmarks/upscale_batch.py [--images 200] [--model base-x4] [--format png]

Cuts pieces of 320x240 pixels out of the example photographs, upscales the folder with one `srcli upscale`, and prints the time
of the whole process, images per second, and the share of all cores that it used.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"
WIDTH, HEIGHT = 320, 240


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--model", default="base-x4")
    parser.add_argument("--format", default="png")
    options = parser.parse_args()
    photos = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*.png"))]
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "lr"
        folder.mkdir()
        for number in range(options.images):
            photo = photos[number % len(photos)]
            left, top = (int(random.integers(side - part + 1)) for side, part in zip(photo.size, (WIDTH, HEIGHT), strict=True))
            photo.crop((left, top, left + WIDTH, top + HEIGHT)).save(folder / f"{number:04d}.{options.format}")
        command = [sys.executable, "-m", "srcli", "upscale", str(folder), "-o", str(Path(scratch) / "sr"), "-m", options.model]
        begin = time.perf_counter()
        subprocess.run([*command, "--device", "cpu"], check=True, capture_output=True)
        wall = time.perf_counter() - begin
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cores = len(os.sched_getaffinity(0))
    busy = (usage.ru_utime + usage.ru_stime) / wall / cores
    print(f"{options.images} images of {WIDTH}x{HEIGHT}, {options.model}, {options.format}: {wall:.1f} s,", end=" ")
    print(f"{options.images / wall:.1f} images/s, {busy:.0%} of {cores} cores")


if __name__ == "__main__":
    main()
