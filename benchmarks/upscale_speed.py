"""How long does upscaling an image of 320x180 pixels take: the whole process, and the network alone?

    python benchmarks/upscale_speed.py [MODEL ...] [--rounds 9]

MODEL is a shipped model or a file; by default all shipped models. Everything is timed in alternation on the CPU, and ratios are
medians over rounds, so that other load affects all alike.

process  `srcli upscale` of one PNG to one PNG, compared with `python -c "import torch"` and with bicubic interpolation by
         Pillow
network  the network alone, arrays in memory: as `srcli upscale` runs it, and in torch
peak     share of the processor's float32 matrix-multiply peak that the network reaches: the fastest of numpy, torch, and
         torch's 1x1 convolution (as some BLAS libraries do not use AVX-512 on some processors) multiplying two matrices of
         2048x2048; the median of the rounds, and the best of each compared with the other
t        time of the network relative to sixteen 3x3 convolutions of 64 to 64 channels at 320x180 in torch
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from srcli.core.graph import shapes_of
from srcli.inference.backend import load_model
from srcli.inference.torch_backend import TorchBackend
from srcli.models.checkpoint import load_generator
from srcli.models.registry import describe_model, shipped_models

WIDTH, HEIGHT = 320, 180
SIDE = 2048
IMPORT = 'python -c "import torch"'
PHOTO = Path(__file__).parents[1] / "examples" / "photos" / "astronaut.png"
BICUBIC = """
import sys
from PIL import Image
with Image.open(sys.argv[1]) as image:
    image.resize((4 * image.width, 4 * image.height), Image.Resampling.BICUBIC).save(sys.argv[2])
"""


def in_turn(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """The seconds of each in each round. The first round is a warm-up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            begin = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def ratio(ones: list[float], others: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))


def processes(models: list[str], rounds: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        small, large = Path(scratch, "small.png"), Path(scratch, "large.png")
        with Image.open(PHOTO) as photo:
            photo.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, (0, 100, 512, 388)).save(small)

        def process(*words: object) -> None:
            subprocess.run([sys.executable, *map(str, words)], check=True, capture_output=True)

        command = ("-m", "srcli", "upscale", small, "-o", large, "--overwrite", "--device", "cpu", "-m")
        contenders: dict[str, Callable[[], object]] = {
            IMPORT: partial(process, "-c", "import torch"),
            "Pillow bicubic x4": partial(process, "-c", BICUBIC, small, large),
        }
        contenders |= {f"srcli upscale -m {model}": partial(process, *command, model) for model in models}
        seconds = in_turn(contenders, rounds)
    print("\n| process | median | times import torch |\n|---|---|---|")
    for name, its in seconds.items():
        print(f"| {name} | {statistics.median(its):.2f} s | {ratio(its, seconds[IMPORT]):.2f} |")


def unit() -> Callable[[], object]:
    """The work with t = 1: sixteen 3x3 convolutions of 64 to 64 channels at 320x180, eager torch, float32."""
    return partial(nn.Sequential(*(nn.Conv2d(64, 64, 3, padding=1) for _ in range(16))), torch.rand(1, 64, HEIGHT, WIDTH))


@torch.inference_mode()
def measure_t(models: list[str], rounds: int = 9) -> dict[str, float]:
    """The time of each model on the CPU relative to that work, measured in alternation."""
    lr = np.random.default_rng(0).random((3, HEIGHT, WIDTH), dtype=np.float32)
    backends = {model: partial(load_model(model, "cpu"), lr) for model in models}
    seconds = in_turn({"t": unit(), **backends}, rounds)
    return {model: ratio(seconds[model], seconds["t"]) for model in models}


@torch.inference_mode()
def networks(models: list[str], rounds: int) -> None:
    lr = np.random.default_rng(0).random((3, HEIGHT, WIDTH), dtype=np.float32)
    image = Image.fromarray(np.rint(lr.transpose(1, 2, 0) * 255).astype(np.uint8))
    matrix = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    tensor = torch.from_numpy(matrix)
    pixels = torch.rand(1, SIDE, SIDE // 64, 64).contiguous(memory_format=torch.channels_last)
    multiplications: dict[str, Callable[[], object]] = {
        "numpy": partial(np.matmul, matrix, matrix),
        "torch": partial(torch.matmul, tensor, tensor),
        "convolution": partial(torch.conv2d, pixels, tensor[..., None, None]),
    }
    contenders = {
        **multiplications,
        "t": unit(),
        "bicubic": partial(image.resize, (4 * WIDTH, 4 * HEIGHT), Image.Resampling.BICUBIC),
    }
    for model in models:
        generator = load_generator(model)
        contenders[model] = partial(load_model(model, "cpu"), lr)
        contenders[f"{model} in torch"] = partial(
            TorchBackend(generator, torch.device("cpu"), scale=generator.scale, halo=generator.halo), lr
        )
    seconds = in_turn(contenders, rounds)
    peak = [2 * SIDE**3 / min(each) for each in zip(*(seconds[name] for name in multiplications), strict=True)]
    usual, best = (f"{figure / 1e9:.0f}" for figure in (statistics.median(peak), max(peak)))
    print(f"\nMatrix-multiply peak: {usual}, at best {best} GFLOPS.")
    print(f"Pillow bicubic x4: {1000 * statistics.median(seconds['bicubic']):.0f} ms.")
    print("\n| network | median | peak | peak, best | t | torch, relative time |\n|---|---|---|---|---|---|")
    for model in models:
        its = seconds[model]
        # multiplications and additions are counted separately
        operations = 2 * shapes_of(describe_model(model).config).operations * WIDTH * HEIGHT
        share = statistics.median(operations / one / most for one, most in zip(its, peak, strict=True))
        at_best = operations / min(its) / max(peak)
        longer, t = ratio(seconds[f"{model} in torch"], its), ratio(its, seconds["t"])
        usual = f"{1000 * statistics.median(its):.0f} ms"
        print(f"| {model} | {usual} | {share:.0%} | {at_best:.0%} | {t:.2f} | {longer:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    models = options.models or shipped_models()
    versions = ", ".join(f"{name} {version(name)}" for name in ("openvino", "torch", "numpy", "pillow"))
    print(f"{WIDTH}x{HEIGHT} pixels, {torch.get_num_threads()} threads, {versions}, {options.rounds} alternating rounds")
    processes(models, options.rounds)
    networks(models, options.rounds)


if __name__ == "__main__":
    main()
