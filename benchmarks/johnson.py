"""The paper's own network beside ours: figures and a picture.

    python benchmarks/johnson.py BENCH OUT.png LABEL=MODEL [LABEL=MODEL ...]

BENCH holds the folders Set5 and Set14. MODEL is a shipped name or a file, of scale 4 or 8. `srcli upscale --scale 4` or 8
enlarges by it from file to file; beside it stand bicubic and what the same command takes by itself, with --naturalness 0 and 1.
Small pictures are made as in the paper, by a blur of sigma 1 and then the bicubic kernel. Prints PSNR and SSIM on luma, `scale`
pixels cut from each border, and ST-LPIPS, means over images; OUT.png shows a detail of a photograph, a row for each scale.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from natural import load_stlpips
from picture import to_pixels
from PIL import Image, ImageDraw, ImageFont
from quality import EXAMPLES, quantised, read, score, truth
from torch import Tensor
from torch.nn.functional import interpolate

from srcli.catalog import describe_model
from srcli.core.degradation import degrade
from srcli.images import find_pictures, write_picture

SETS = ("Set5", "Set14")
DETAIL = EXAMPLES / "photos" / "astronaut.png", 160, 60, 128
"""Photograph, left and upper end, and side."""
LABEL, GAP = 40, 4


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
    stlpips = load_stlpips()
    columns = ["scale", "enlarged by", *(f"{name} {figure}" for name in SETS for figure in ("psnr", "ssim", "stlpips"))]
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    rows: list[dict[str, Tensor]] = []
    for scale in sorted(ways):
        its = ways[scale] | {"compact": ["--naturalness", "0"], "compact, natural": ["--naturalness", "1"]}
        cells: dict[str, list[str]] = {}
        for name in SETS:
            hrs = [truth(path, scale) for path in find_pictures(options.bench / name)]
            made = [enlarged(hr, scale, its) for hr in hrs]
            for label in made[0]:
                pairs = [(each[label], hr) for each, hr in zip(made, hrs, strict=True)]
                row = score(pairs, scale, [lambda sr, hr: {"stlpips": stlpips(sr, hr)}])
                cells.setdefault(label, []).extend((f"{row['psnr']:.2f}", f"{row['ssim']:.4f}", f"{row['stlpips']:.3f}"))
        for label, figures in cells.items():
            print(f"| {scale} | {label} | " + " | ".join(figures) + " |", flush=True)
        photo, left, top, side = DETAIL
        hr = truth(photo, scale)
        small = interpolate(reduced(hr, scale), scale_factor=scale, mode="nearest")
        panels = {f"small, x{scale}": small} | enlarged(hr, scale, its) | {"true": hr}
        rows.append({label: image[..., top : top + side, left : left + side] for label, image in panels.items()})
    draw(rows, options.out)


def reduced(hr: Tensor, scale: int) -> Tensor:
    return quantised(degrade("johnson", hr, scale))


def enlarged(hr: Tensor, scale: int, ways: dict[str, list[str]]) -> dict[str, Tensor]:
    """What each way, words for `srcli upscale`, makes of hr when it is reduced, and bicubic."""
    lr = reduced(hr, scale)
    results = {"bicubic": quantised(interpolate(lr, size=hr.shape[-2:], mode="bicubic", antialias=True))}
    with tempfile.TemporaryDirectory() as scratch:
        small, large = Path(scratch) / "small.png", Path(scratch) / "large.png"
        write_picture(to_pixels(lr), small)
        for label, words in ways.items():
            command = [sys.executable, "-m", "srcli", "upscale", small, "--scale", scale, "-o", large, "--overwrite", *words]
            subprocess.run(list(map(str, command)), check=True, capture_output=True)
            results[label] = read(large)
    return results


def draw(rows: list[dict[str, Tensor]], out: Path) -> None:
    """Panels beside each other, each row under labels of its own."""
    side = 2 * DETAIL[3]
    page = Image.new("RGB", (max(map(len, rows)) * (side + GAP) - GAP, len(rows) * (LABEL + side)), "white")
    pen = ImageDraw.Draw(page)
    for down, row in enumerate(rows):
        for across, (label, image) in enumerate(row.items()):
            left, top = across * (side + GAP), down * (LABEL + side)
            pen.text((left + side / 2, top + LABEL / 2), label, fill="black", anchor="mm", font=ImageFont.load_default(16))
            panel = Image.fromarray(to_pixels(image).pixels)
            page.paste(panel.resize((side, side), Image.Resampling.NEAREST), (left, top + LABEL))
    page.save(out)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
