"""How do the losses rate distortions that the mean squared error cannot distinguish?

    python benchmarks/distortions.py PHOTO ... [--mse 0.001]

Each photograph is distorted in six ways, with strengths that give the same mean squared error. Prints each metric of `srcli
compare-loss` divided by its mean over the six, averaged over the photographs: above 1, the metric rates a distortion worse than
most. SSIM is shown as 1 - SSIM, so that higher is worse in every column.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from srcli.config import LossConfig
from srcli.evaluation.compare import Comparer, ComparisonImage
from srcli.io.read import read_srgb

LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "conv5_1")


def blur(photo: np.ndarray, strength: float) -> np.ndarray:
    return np.array(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(strength)))


def noise(photo: np.ndarray, strength: float) -> np.ndarray:
    return photo + strength * np.random.default_rng(0).normal(size=photo.shape)


def jpeg(photo: np.ndarray, strength: float) -> np.ndarray:
    """JPEG at quality 95 - strength; fractions blend with the photograph."""
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "JPEG", quality=max(1, round(95 - strength)))
    return np.array(Image.open(buffer))


def shift(photo: np.ndarray, strength: float) -> np.ndarray:
    """Shifted to the right by `strength` pixels, with linear interpolation."""
    whole, part = int(strength), strength % 1
    moved = [np.roll(photo, whole + extra, axis=1).astype(np.float64) for extra in (0, 1)]
    return (1 - part) * moved[0] + part * moved[1]


def brightness(photo: np.ndarray, strength: float) -> np.ndarray:
    return photo + strength


def bicubic_upscaled(photo: np.ndarray, strength: float) -> np.ndarray:
    """Downscaled and upscaled again with bicubic interpolation."""
    image = Image.fromarray(photo)
    small = image.resize([max(1, round(side / (1 + strength))) for side in image.size], Image.Resampling.BICUBIC)
    return np.array(small.resize(image.size, Image.Resampling.BICUBIC))


DISTORTIONS: dict[str, tuple[Callable[[np.ndarray, float], np.ndarray], float]] = {
    "blur": (blur, 8),
    "noise": (noise, 100),
    "JPEG": (jpeg, 94),
    "shift": (shift, 8),
    "brightness": (brightness, 100),
    "bicubic upscaling": (bicubic_upscaled, 15),
}
"""Each with a strength that is certainly too high."""


def distorted(photo: np.ndarray, name: str, mse: float) -> np.ndarray:
    """The photograph with a distortion of the given error: bisects the strength, then blends for the remaining difference."""
    make, most = DISTORTIONS[name]
    low, high = 0.0, most
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if error(make(photo, middle), photo) < mse else (low, middle)
    strong = np.clip(make(photo, high).astype(np.float64), 0, 255)
    share = np.sqrt(mse / error(strong, photo))
    return np.rint(65_535 / 255 * (photo + share * (strong - photo))).clip(0, 65_535).astype(np.uint16)


def error(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.square((np.clip(one.astype(np.float64), 0, 255) - other) / 255).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--mse", type=float, default=0.001)
    options = parser.parse_args()
    comparer = Comparer(LossConfig(feature=1, layers=dict.fromkeys(LAYERS, 1.0)))
    tables = []
    for path in options.photos:
        photo = read_srgb(path)
        candidates = [ComparisonImage(name, distorted(photo, name, options.mse)) for name in DISTORTIONS]
        results = comparer.compare(ComparisonImage("photo", photo), candidates)
        table = np.array([[r.pixel, 1 - r.ssim_y, *(r.layers[layer] for layer in LAYERS)] for r in results])
        tables.append(table / table.mean(axis=0))
    mean = np.mean(tables, axis=0)
    print("| distortion | pixel | 1 - SSIM | " + " | ".join(LAYERS) + " |")
    print("|---" * (3 + len(LAYERS)) + "|")
    for name, row in zip(DISTORTIONS, mean, strict=True):
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in row) + " |")


if __name__ == "__main__":
    main()
