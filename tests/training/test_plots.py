"""Plots of a run."""

from pathlib import Path

import numpy as np
from PIL import Image

from srcli.training.plots import BLUE, draw_curves


def test_a_single_point_is_visible(tmp_path: Path) -> None:
    """The learning rate is drawn at the upper right, in blue."""
    names = "step,lr,loss,pixel_weighted,val_psnr,bicubic_psnr,val_ssim,bicubic_ssim"
    (tmp_path / "history.csv").write_text(f"{names}\n5,0.005,0.01,0.01,,,,\n")
    draw_curves(tmp_path / "history.csv", tmp_path / "curves.png")
    pixels = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB"))
    height, width, _ = pixels.shape
    blue = np.all(pixels[: height // 2, width // 2 :] == tuple(bytes.fromhex(BLUE[1:])), axis=-1)
    assert blue.sum() > 4
