"""Plots of a run."""

from pathlib import Path

import numpy as np
from PIL import Image

from srcli.training.plots import BLUE, GRAY, curves_as_svg, draw_curves

NAMES = "step,lr,loss,pixel_weighted,val_psnr,bicubic_psnr,val_ssim,bicubic_ssim"


def rows(*lines: str) -> list[dict[str, str]]:
    return [dict(zip(NAMES.split(","), line.split(","), strict=True)) for line in lines]


def test_a_single_point_is_visible(tmp_path: Path) -> None:
    """Loss, learning rate, PSNR and SSIM, each in a quarter of the image; and the values of bicubic interpolation in gray."""
    path = tmp_path / "curves.png"
    draw_curves(rows("5,0.005,0.01,0.01,30,28,0.9,0.8"), path)
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    height, width = (side // 2 for side in pixels.shape[:2])
    for color, top, left in ((BLUE, 0, 0), (BLUE, 0, 1), (BLUE, 1, 0), (GRAY, 1, 0), (BLUE, 1, 1), (GRAY, 1, 1)):
        quarter = pixels[top * height : (top + 1) * height, left * width : (left + 1) * width]
        distance = np.abs(quarter - list(bytes.fromhex(color[1:]))).max(axis=-1)
        assert (distance < 3).sum() > 4, (color, top, left)


def test_a_page_shows_only_curves_with_points() -> None:
    assert list(curves_as_svg(rows("5,0.005,0.01,0.01,,,,"))) == ["Training loss, weighted terms", "Learning rate"]
    assert curves_as_svg([]) == {}
    for svg in curves_as_svg(rows("5,0.005,0.01,0.01,30,28,0.9,0.8", "6,0.005,0.01,0.01,30,28,0.9,0.8")).values():
        assert svg.startswith("<svg")
        assert ">step</text>" in svg
