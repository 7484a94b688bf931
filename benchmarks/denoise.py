"""How much to denoise: the models between base and photo on images with JPEG artifacts and noise.

    python benchmarks/denoise.py BENCH [--scale 4] [--count 20]

BENCH contains the folders Set14 and BSD100, of which every second and every fifth image is used. Each LR image is saved as JPEG
at several qualities, or gets white noise of several strengths, and is upscaled with each level of `srcli.inference.denoise`.
Prints PSNR and ST-LPIPS for each level, the best one in bold, and which level is chosen automatically, on average.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from natural import load_stlpips
from quality import decoded, encoded, truth
from torch import Tensor

from srcli.core.degradation import bicubic
from srcli.core.metrics import on_luma, psnr
from srcli.inference.backend import load_model
from srcli.inference.denoise import LEVELS, estimate_denoise
from srcli.io.discover import find_images
from srcli.models.registry import select_models


def as_jpeg(quality: int) -> Callable[[Tensor], bytes]:
    return lambda lr: encoded(lr, "JPEG", quality=quality)


def with_noise(sigma: float) -> Callable[[Tensor], bytes]:
    """sigma: of 255."""

    def noisy(lr: Tensor) -> bytes:
        noise = np.random.default_rng(0).normal(0, sigma / 255, lr.shape)
        return encoded(lr + torch.from_numpy(noise).float(), "PNG")

    return noisy


DEGRADATIONS = (
    {"clean": with_noise(0)}
    | {f"JPEG {quality}": as_jpeg(quality) for quality in (97, 94, 90, 85, 80, 70, 60, 50, 40)}
    | {f"noise {sigma}": with_noise(sigma) for sigma in (2, 3, 5, 8, 12)}
)


def bold(values: np.ndarray, best: int, digits: int) -> list[str]:
    return [f"**{value:.{digits}f}**" if place == best else f"{value:.{digits}f}" for place, value in enumerate(values)]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", type=Path)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--count", type=int, default=20)
    options = parser.parse_args()
    scale: int = options.scale
    stlpips = load_stlpips()
    found = [next(model for model in select_models(denoise=level) if model.scale == scale) for level in LEVELS]
    backends = [load_model(model, "cpu") for model in found]
    paths = [*find_images(options.bench / "Set14")[::2], *find_images(options.bench / "BSD100")[::5]][: options.count]
    columns = [f"{figure} {level:g}" for figure in ("PSNR", "ST-LPIPS") for level in LEVELS]
    print("| LR images | " + " | ".join(columns) + " | chosen |")
    print("|---" * (len(columns) + 2) + "|")
    for name, degrade in DEGRADATIONS.items():
        rows, chosen = [], []
        for path in paths:
            hr = truth(path, scale)
            file = degrade(bicubic(hr, scale))
            lr = decoded(file)[0].contiguous().numpy()
            chosen.append(estimate_denoise(file).level)
            srs = [torch.from_numpy(backend(lr))[None].clamp(0, 1) for backend in backends]
            rows.append([*(psnr(*on_luma(sr, hr, border=scale)).item() for sr in srs), *(stlpips(sr, hr) for sr in srs)])
        psnrs, distances = np.split(np.mean(rows, axis=0), 2)
        cells = [*bold(psnrs, int(psnrs.argmax()), 2), *bold(distances, int(distances.argmin()), 3)]
        print(f"| {name} | " + " | ".join(cells) + f" | {np.mean(chosen):.2f} |", flush=True)


if __name__ == "__main__":
    main()
