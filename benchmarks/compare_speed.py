"""How much time does a comparison take beyond VGG16, and how much memory?

    python benchmarks/compare_speed.py [--megapixels 1] [--rounds 5] [--peers]
    python benchmarks/compare_speed.py --memory [--megapixels 24]

The first command alternates between `Comparer.compare` and two bare VGG16 forward passes to relu4_3, on one pair in memory, and
prints the median ratio. --peers also times lpips and torchmetrics, if they are installed: both run all 13 convolutions of
VGG16, with random weights here, as they would download theirs. The second command compares one pair of PNG files in a separate
process and prints its peak memory.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torchvision_cpu import declare_operators

from srcli.evaluation.compare import Comparer, ComparisonImage
from srcli.io.image import Image
from srcli.io.write import write_image


def pair(megapixels: float) -> tuple[np.ndarray, np.ndarray]:
    """A smooth image, 3:2, and a noisy copy."""
    height = int((megapixels * 1e6 / 1.5) ** 0.5)
    width = int(height * 1.5)
    random = np.random.default_rng(0)
    rows = np.linspace(0, 200, height, dtype=np.float32)[:, None, None]
    true = (rows + np.linspace(0, 50, width * 3, dtype=np.float32).reshape(1, width, 3)).astype(np.uint8)
    noisy = true + random.integers(0, 6, true.shape, dtype=np.uint8)
    return true, noisy


@torch.inference_mode()
def speed(megapixels: float, rounds: int, peers: bool) -> None:
    comparer = Comparer()
    true, noisy = (ComparisonImage(name, pixels) for name, pixels in zip(("true", "noisy"), pair(megapixels), strict=True))
    everywhere = (slice(None), slice(None))
    images = [still.tensor(everywhere, (1, 1, 1)) for still in (true, noisy)]
    contenders: dict[str, Callable[[], object]] = {
        "bare forward passes to relu4_3": lambda: [comparer.vgg(image) for image in images],
        "srcli compare": lambda: comparer.compare(true, [noisy]),
    }
    if peers and declare_operators():
        warnings.simplefilter("ignore")
        from lpips import LPIPS
        from torchmetrics.functional.image.lpips import _LPIPS

        networks = {
            "lpips, vgg": LPIPS(net="vgg", pnet_rand=True, verbose=False),
            "torchmetrics, lpips vgg": _LPIPS(net="vgg", pnet_rand=True),
        }
        signed = [2 * image - 1 for image in images]
        contenders |= {name: partial(network, *signed) for name, network in networks.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, run in contenders.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
    print(
        f"{megapixels:g} megapixels, {torch.get_num_threads()} threads, torch {torch.__version__}, {rounds} alternating rounds"
    )
    bare = seconds["bare forward passes to relu4_3"][1:]
    for name, its in seconds.items():
        ratio = statistics.median(one / other for one, other in zip(its[1:], bare, strict=True))
        print(f"{name:<32} median {statistics.median(its[1:]):6.2f} s, {ratio:.2f} times the bare passes")


def memory(megapixels: float) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        paths = [Path(scratch) / name for name in ("true.png", "noisy.png")]
        for path, pixels in zip(paths, pair(megapixels), strict=True):
            write_image(Image(pixels), path)
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "srcli", "compare-loss", *map(str, paths)], check=True)
        seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1 if sys.platform == "darwin" else 1024)
    print(f"{megapixels:g} megapixels: peak memory {peak:.0f} MiB, {seconds:.0f} s with process start")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peers", action="store_true")
    options = parser.parse_args()
    if options.memory:
        memory(options.megapixels or 24)
    else:
        speed(options.megapixels or 1, options.rounds, options.peers)
