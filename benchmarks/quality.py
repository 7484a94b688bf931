"""How faithful are the models, how natural, and how fast? From files that `srcli upscale` wrote.

    python benchmarks/quality.py BENCH [MODEL ...] [--json FILE] [--features SCALE]

BENCH holds the folders Set5, Set14 and BSD100. MODEL is a shipped name or a file; all shipped ones, and what `--quality best`
takes, are taken if none is named. Each true picture is cut to a multiple of the scale and reduced with the antialiased
bicubic kernel to 8 bits; what `srcli upscale` makes of it is read back from disk. PSNR and SSIM are of luma (BT.601), `scale`
pixels cut from each border; ST-LPIPS is lower where it is nearer; means over images. t is the time for 320x180 pixels in
units of a fixed piece of work (see upscale_speed.py).
--features SCALE adds a second table for that scale: the feature loss at relu2_2 and relu4_3, mean over images, lower is
nearer; and the grid on flat and on textured areas (see natural.py), where 1 is the true pictures' level; and a third
one of PSNR and ST-LPIPS where the small pictures were spoilt by noise (3 levels) and then by JPEG (quality 75).
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from natural import grid, load_stlpips
from PIL import Image
from torch import Tensor
from upscale_speed import measure_t

from srcli.catalog import QUALITIES, SPEED, choose_models, describe_model, shipped_models
from srcli.core.degradation import bicubic
from srcli.core.metrics import on_luma, psnr, ssim
from srcli.images import Picture, find_pictures, read_srgb, write_picture
from srcli.models import load_feature_loss

SETS = ("Set5", "Set14", "BSD100")
LAYERS = ("relu2_2", "relu4_3")
NATURAL = (*LAYERS, "grid_flat", "grid_textured")
Pairs = list[tuple[Tensor, Tensor]]
"""(sr, hr) of each picture."""
Table = dict[str, dict[str, dict[str, float]]]
"""By model, then by set of pictures, then by figure."""
Metric = Callable[[Tensor, Tensor], dict[str, float]]
DIGITS = {"ssim": 4, "stlpips": 3}


def read(path: Path) -> Tensor:
    return torch.from_numpy(read_srgb(path)).permute(2, 0, 1)[None].float() / 255


def truth(path: Path, scale: int) -> Tensor:
    hr = read(path)
    height, width = (side - side % scale for side in hr.shape[-2:])
    return hr[..., :height, :width]


def quantised(image: Tensor) -> Tensor:
    return (image * 255).round().clamp(0, 255) / 255


@torch.inference_mode()
def score(pairs: Pairs, scale: int, metrics: list[Metric]) -> dict[str, float]:
    """The means of PSNR, SSIM and what the metrics give."""
    rows: list[dict[str, float]] = []
    for sr, hr in pairs:
        luma = on_luma(sr, hr, border=scale)
        row = {"psnr": psnr(*luma).item(), "ssim": ssim(*luma).item()}
        for metric in metrics:
            row |= metric(sr, hr)
        rows.append(row)
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def feature_metric() -> Metric:
    loss = load_feature_loss(dict.fromkeys(LAYERS, 1.0))
    return lambda sr, hr: {layer: distance.item() for layer, distance in loss.by_layer(sr, hr).items()}


def stlpips_metric() -> Metric:
    stlpips = load_stlpips()
    return lambda sr, hr: {"stlpips": stlpips(sr, hr)}


def print_table(table: Table, figures: tuple[str, ...], *, timed: bool = False) -> None:
    columns = [*(["t"] if timed else []), *(f"{name} {figure}" for name in SETS for figure in figures)]
    print("| model | " + " | ".join(columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for model, row in table.items():
        cells = [f"{row[name][figure]:.{DIGITS.get(figure, 2)}f}" for name in SETS for figure in figures]
        t = [f"{row[SPEED]['t']:.2f}" if SPEED in row else "-"] if timed else []
        print(f"| {model} | " + " | ".join([*t, *cells]) + " |")


def spoil(lr: Tensor) -> Tensor:
    """What a cheap camera and a web site leave: noise of a standard deviation of 3 levels, then JPEG at quality 75 (Pillow)."""
    random = np.random.default_rng(0)
    pixels = (lr[0] * 255).permute(1, 2, 0).numpy()
    noisy = np.clip(np.rint(pixels + random.normal(0, 3, pixels.shape)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=75)
    with Image.open(file) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def enlarge(hrs: dict[str, Tensor], lrs: dict[str, Tensor], models: list[str], scale: int) -> dict[str, Pairs]:
    """What bicubic and each model make of the pictures, by `srcli upscale` from file to file."""
    with tempfile.TemporaryDirectory() as scratch:
        small, out = Path(scratch) / "lr", Path(scratch) / "sr"
        for stem, lr in lrs.items():
            write_picture(Picture((lr[0] * 255).round().byte().permute(1, 2, 0).numpy()), small / f"{stem}.png")
        large = {stem: F.interpolate(lr, size=hrs[stem].shape[-2:], mode="bicubic", antialias=True) for stem, lr in lrs.items()}
        enlarged = {f"bicubic-x{scale}": [(quantised(large[stem]), hr) for stem, hr in hrs.items()]}
        for model in models:
            command = [sys.executable, "-m", "srcli", "upscale", str(small), "-m", model, "-o", str(out), "--overwrite"]
            subprocess.run(command, check=True, capture_output=True)
            enlarged[model] = [(read(out / f"{stem}_x{scale}.png"), hr) for stem, hr in hrs.items()]
    return enlarged


def usual_models() -> list[str]:
    """What ships, and the ways to run it that `--quality` takes."""
    chosen = (model.name for quality in QUALITIES for model in choose_models(quality=quality))
    return list(dict.fromkeys([*shipped_models(), *chosen]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", type=Path)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--features", type=int, metavar="SCALE")
    options = parser.parse_args()
    models = {name: describe_model(name).scale for name in options.models or usual_models()}
    table: Table = {}
    spoilt: Table = {}
    stlpips = stlpips_metric()
    t = measure_t(list(models))
    for scale in sorted(set(models.values())):
        its = [model for model, its_scale in models.items() if its_scale == scale]
        closely = scale == options.features
        metrics = [stlpips, feature_metric()] if closely else [stlpips]
        for name in SETS:
            hrs = {path.stem: truth(path, scale) for path in find_pictures(options.bench / name)}
            lrs = {stem: bicubic(hr, scale) for stem, hr in hrs.items()}
            for model, pairs in enlarge(hrs, lrs, its, scale).items():
                figures = score(pairs, scale, metrics)
                table.setdefault(model, {})[name] = figures | grid(pairs, scale) if closely else figures
            if closely:
                lrs = {stem: spoil(lr) for stem, lr in lrs.items()}
                for model, pairs in enlarge(hrs, lrs, its, scale).items():
                    spoilt.setdefault(model, {})[name] = score(pairs, scale, [stlpips])
    for model in models:
        table[model][SPEED] = {"t": t[model]}
    print_table(table, ("psnr", "ssim", "stlpips"), timed=True)
    if options.features:
        print()
        print_table({model: row for model, row in table.items() if LAYERS[0] in row["Set5"]}, NATURAL)
        print("\nSmall pictures with noise and JPEG:\n")
        print_table(spoilt, ("psnr", "stlpips"))
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
