"""Upscale an image with bicubic interpolation, for comparison with a trained model.

    python examples/bicubic.py INPUT OUTPUT [SCALE]

Any callable that maps lr to sr can be a backend: srcli.Upscaler takes care of tiles, bit depth, alpha and metadata.
"""

import sys

import numpy as np
import torch

import srcli


class Bicubic:
    """A backend that interpolates."""

    halo = 2  # pixels on each side that influence a pixel
    tile_multiple = 1  # tiles may start at any pixel
    bytes_per_pixel = 1000  # of the input
    device_free_bytes = None  # uses the machine's memory
    description = "cpu (torch)"

    def __init__(self, scale: int) -> None:
        self.scale = scale

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(np.ascontiguousarray(lr))[None]  # 1 x 3 x H x W
        size = (lr.shape[1] * self.scale, lr.shape[2] * self.scale)
        sr: np.ndarray = torch.nn.functional.interpolate(batch, size=size, mode="bicubic", antialias=True)[0].numpy()
        return sr


if __name__ == "__main__":
    source, target, scale = (*sys.argv[1:], "4")[:3]
    image = srcli.read_image(source)
    upscaler = srcli.Upscaler(Bicubic(int(scale)), "bicubic")
    srcli.write_image(upscaler(image), target, overwrite=True)
