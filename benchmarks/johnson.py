"""Compare the paper's own network with the shipped models: a table and an image.

    python benchmarks/johnson.py BENCH OUT.png LABEL=MODEL [LABEL=MODEL ...]

BENCH contains the folders Set5 and Set14. MODEL is a shipped model or a file, of scale 4 or 8. Images are upscaled with `srcli
upscale --scale 4` or 8, by each model, by bicubic interpolation, and by the default with --perceptual 0 and 1. LR images are
computed as in the paper, by blur with sigma 1 and bicubic downscaling. Prints the means of PSNR and SSIM on luma, `scale`
pixels cropped from each border, and of ST-LPIPS. OUT.png shows a detail of a photograph, with a row for each scale.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from image_panels import sheet, to_pixels
from PIL import Image
from quality import EXAMPLES, Pairs, Table, print_table, quantized, score, stlpips_metric, truth, upscale_files
from torch import Tensor
from torch.nn.functional import interpolate

from srcli.core.degradation import degrade
from srcli.io.discover import find_images
from srcli.models.registry import describe_model

SETS = ("Set5", "Set14")
DETAIL = EXAMPLES / "photos" / "astronaut.png", 160, 60, 128
"""Photograph, left and top position, and side."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="+")
    options = parser.parse_args()
    ways: dict[int, dict[str, list[str]]] = {}
    for word in options.models:
        label, _, model = word.partition("=")
        ways.setdefault(describe_model(model).scale, {})[label] = ["-m", model]
    stlpips = stlpips_metric()
    pages: list[Image.Image] = []
    for scale, its in sorted(ways.items()):
        for label, perceptual in ((f"srcli-x{scale}", "0"), (f"srcli-x{scale}, natural", "1")):
            its[label] = ["--scale", str(scale), "--perceptual", perceptual]
        table: Table = {}
        for name in SETS:
            hrs = {path.stem: truth(path, scale) for path in find_images(options.bench / name)}
            for label, pairs in upscaled(hrs, its, scale).items():
                table.setdefault(label, {})[name] = score(pairs, scale, [stlpips])
        print_table(table, ("psnr", "ssim", "stlpips"), sets=SETS)
        print(flush=True)
        pages.append(detail(its, scale))
    whole = Image.new("RGB", (max(page.width for page in pages), sum(page.height for page in pages)), "white")
    for number, page in enumerate(pages):
        whole.paste(page, (0, sum(earlier.height for earlier in pages[:number])))
    whole.save(options.out)


def reduced(hr: Tensor, scale: int) -> Tensor:
    return quantized(degrade("johnson", hr, scale))


def upscaled(hrs: dict[str, Tensor], ways: dict[str, list[str]], scale: int) -> dict[str, Pairs]:
    return upscale_files(hrs, {stem: reduced(hr, scale) for stem, hr in hrs.items()}, ways, scale)


def detail(ways: dict[str, list[str]], scale: int) -> Image.Image:
    """The LR image, the result of each model, and the original."""
    photo, left, top, side = DETAIL
    hr = truth(photo, scale)
    wholes = {"small": interpolate(reduced(hr, scale), scale_factor=scale, mode="nearest")}
    wholes |= {label: sr for label, [(sr, _)] in upscaled({photo.stem: hr}, ways, scale).items()} | {"true": hr}
    place = (..., slice(top, top + side), slice(left, left + side))
    return sheet([{label: Image.fromarray(to_pixels(whole[place]).pixels) for label, whole in wholes.items()}], 2 * side)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
