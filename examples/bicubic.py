"""Upscale an image with plain bicubic interpolation, to lay beside what a trained generator makes of it.

    python examples/bicubic.py INPUT OUTPUT [SCALE]

Also shows that anything that turns lr into sr can stand in a generator's place: tiles, depth, alpha and metadata are looked
after by srcli.upscale.
"""

import sys

import numpy as np
import torch

import srcli


class Bicubic:
    """Looks at two pixels to each side, so that is its halo."""

    halo = 2
    grid = 1  # tiles may begin anywhere
    bytes_per_pixel = 1000  # of memory for each small pixel
    device_free_bytes = None  # works in the machine's memory, not in a GPU's
    runs_on = "cpu (torch)"

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
    srcli.write_image(srcli.upscale(Bicubic(int(scale)), image), target, overwrite=True)
