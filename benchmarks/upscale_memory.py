"""How much memory does `srcli upscale` take for results of different sizes, and are tiles free of seams?

    python benchmarks/upscale_memory.py [--megapixels 1,4,16,64,250,1000] [--format png] [--model base-x4] [--folder DIR]

Each size is upscaled in a separate process, from a smooth 8:5 image with noise; the peak is the largest resident set. The
smaller results are compared with those without tiling (--tile 0).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from srcli.io.read import open_image
from srcli.io.write import write_rows
from srcli.models.registry import describe_model

UNTILED = 20
"""Megapixels up to which a result is compared with the untiled one, which is kept in memory."""


@dataclass
class Made:
    """The rows of a synthetic image."""

    width: int
    height: int
    channels: int = 3
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.uint8))
    done: int = 0

    def read(self, count: int) -> np.ndarray:
        count = min(count, self.height - self.done)
        random = np.random.default_rng(self.done)
        down = np.arange(self.done, self.done + count)[:, None, None]
        across = np.arange(self.width)[None, :, None]
        waves = 128 + 90 * np.sin(down / 37 + across / 53 + np.arange(3)) * np.cos(across / 211)
        self.done += count
        return (waves + random.normal(0, 4, waves.shape)).clip(0, 255).astype(np.uint8)


def peak(*words: str) -> tuple[float, float, dict]:
    """Peak resident set in MiB, seconds, and the JSON output of one call."""
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "srcli", "upscale", *words, "--json"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = json.loads(process.stdout.read())
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"srcli failed: {said['error']}")
    return used.ru_maxrss / (2**20 if sys.platform == "darwin" else 1024), time.perf_counter() - begin, said


def largest_difference(one: Path, other: Path) -> int:
    first, second = open_image(one), open_image(other)
    largest = 0
    while len(rows := first.read(256).astype(int)):
        largest = max(largest, int(np.abs(rows - second.read(256)).max()))
    return largest


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", default="1,4,16,64,250,1000")
    parser.add_argument("--format", default="png")
    parser.add_argument("--model", default="base-x4")
    parser.add_argument("--folder", type=Path, help="where the images are made, and removed")
    options = parser.parse_args()
    scale = describe_model(options.model).scale
    print(f"{options.model}, {options.format}, {os.cpu_count()} cores")
    print("| result, megapixels | result | peak memory, MiB | seconds | difference to untiled, gray levels |")
    print("|---|---|---|---|---|")
    for megapixels in map(float, options.megapixels.split(",")):
        height = round((megapixels * 1e6 / 1.6) ** 0.5 / scale)
        width = round(megapixels * 1e6 / scale**2 / height)
        with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
            small, large, whole = (
                Path(scratch) / name for name in ("lr.png", f"sr.{options.format}", f"whole.{options.format}")
            )
            write_rows(Made(width, height), small)
            mebibytes, seconds, said = peak(str(small), "-o", str(large), "-m", options.model)
            difference = "-"
            if megapixels <= UNTILED:
                peak(str(small), "-o", str(whole), "-m", options.model, "--tile", "0")
                difference = str(largest_difference(large, whole))
            wide, high = said["sr"]
            print(f"| {megapixels:g} | {wide}x{high} | {mebibytes:.0f} | {seconds:.0f} | {difference} |", flush=True)
