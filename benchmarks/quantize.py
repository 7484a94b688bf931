"""Calibrate shipped models for int8 again, as `srcli train` does for every new model.

    python benchmarks/quantize.py PHOTOS NAME ... [--images 48]

Uses a subset of the photographs, with the degradation that the model was trained on. Everything else in the file stays
unchanged.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from quality import read
from torch import Tensor

from srcli.core.degradation import degraded_pair
from srcli.io.discover import find_images
from srcli.models.checkpoint import load_generator, save_model
from srcli.models.registry import WEIGHTS, ModelSpec, describe_model

SIDE = 288
IMAGES = 48


def lr_images(photos: Path, model: ModelSpec, images: int = IMAGES) -> Tensor:
    """The upper left corners of about so many photographs, degraded as in the model's training: N x 3 x H x W."""
    paths = find_images(photos)
    hr = torch.cat([read(path)[..., :SIDE, :SIDE] for path in paths[:: max(1, len(paths) // images)]])
    return degraded_pair(model.about["settings"].get("degradation", "bicubic"), hr, model.scale)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--images", type=int, default=IMAGES)
    options = parser.parse_args()
    for name in options.names:
        model = describe_model(name)
        lr = lr_images(options.photos, model, options.images)
        save_model(WEIGHTS / f"{name}.safetensors", load_generator(model), model.config, model.about, lr)
        print(f"{name}: from {len(lr)} LR images of {lr.shape[-1]}x{lr.shape[-2]} pixels")


if __name__ == "__main__":
    main()
