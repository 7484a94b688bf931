"""How faithful are the models? PSNR and SSIM on Set5, Set14 and BSD100, from files that `srcli upscale` wrote.

    python benchmarks/quality.py BENCH [MODEL ...] [--json FILE] [--features SCALE]

BENCH holds the folders Set5, Set14 and BSD100. MODEL is a shipped name or a file; all shipped ones are taken if none is
named. Each true picture is cut to a multiple of the scale and reduced with the antialiased bicubic kernel to 8 bits; what
`srcli upscale` makes of it is read back from disk. Luma (BT.601), `scale` pixels cut from each border, mean over images.
--features SCALE adds a second table for that scale: the feature loss at relu2_2 and relu4_3 and ST-LPIPS, mean over images,
lower is nearer; and the grid on flat and on textured areas (see natural.py), where 1 is the true pictures' level.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from natural import grid, load_stlpips
from torch import Tensor

from srcli.catalog import describe_model, shipped_models
from srcli.core.degradation import bicubic
from srcli.core.metrics import on_luma, psnr, ssim
from srcli.images import Picture, find_pictures, read_srgb, write_picture
from srcli.models import load_feature_loss

SETS = ("Set5", "Set14", "BSD100")
LAYERS = ("relu2_2", "relu4_3")
NATURAL = (*LAYERS, "stlpips", "grid_flat", "grid_textured")
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
def score(pairs: list[tuple[Tensor, Tensor]], scale: int, *, features: bool) -> dict[str, float]:
    losses = load_feature_loss(dict.fromkeys(LAYERS, 1.0)) if features else None
    stlpips = load_stlpips() if features else None
    rows: list[dict[str, float]] = []
    for sr, hr in pairs:
        luma = on_luma(sr, hr, border=scale)
        row = {"psnr": psnr(*luma).item(), "ssim": ssim(*luma).item()}
        if losses and stlpips:
            row |= {layer: value.item() for layer, value in losses.by_layer(sr, hr).items()} | {"stlpips": stlpips(sr, hr)}
        rows.append(row)
    means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    return means | grid(pairs, scale) if features else means


def print_table(table: dict[str, dict[str, dict[str, float]]], figures: tuple[str, ...]) -> None:
    print("| model | " + " | ".join(f"{name} {figure}" for name in SETS for figure in figures) + " |")
    print("|---" * (1 + len(SETS) * len(figures)) + "|")
    for model, row in table.items():
        cells = [f"{row[name][figure]:.{DIGITS.get(figure, 2)}f}" for name in SETS for figure in figures]
        print(f"| {model} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", type=Path)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--features", type=int, metavar="SCALE")
    options = parser.parse_args()
    models = {name: describe_model(name).scale for name in options.models or shipped_models()}
    table: dict[str, dict[str, dict[str, float]]] = {}
    for scale in sorted(set(models.values())):
        for name in SETS:
            hrs = {path.stem: truth(path, scale) for path in find_pictures(options.bench / name)}
            with tempfile.TemporaryDirectory() as scratch:
                small = Path(scratch) / "lr"
                enlarged: dict[str, list[tuple[Tensor, Tensor]]] = {f"bicubic-x{scale}": []}
                for stem, hr in hrs.items():
                    lr = bicubic(hr, scale)
                    pixels = (lr[0] * 255).round().byte().permute(1, 2, 0).numpy()
                    write_picture(Picture(pixels), small / f"{stem}.png")
                    large = F.interpolate(lr, size=hr.shape[-2:], mode="bicubic", antialias=True)
                    enlarged[f"bicubic-x{scale}"].append((quantised(large), hr))
                for model in (model for model, its_scale in models.items() if its_scale == scale):
                    out = Path(scratch) / "sr"
                    command = [sys.executable, "-m", "srcli", "upscale", str(small), "-m", model, "-o", str(out), "--overwrite"]
                    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                    enlarged[model] = [(read(out / f"{stem}_x{scale}.png"), hr) for stem, hr in hrs.items()]
            for model, pairs in enlarged.items():
                table.setdefault(model, {})[name] = score(pairs, scale, features=scale == options.features)
    print_table(table, ("psnr", "ssim"))
    if options.features:
        print()
        print_table({model: row for model, row in table.items() if LAYERS[0] in row["Set5"]}, NATURAL)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
