"""How accurate, natural and fast are the models? Measured on files that `srcli upscale` wrote.

    python benchmarks/quality.py BENCH [MODEL ...] [--json FILE] [--features SCALE] [--only speed|accuracy|degraded ...]
                                 [--sets SET ...]

BENCH contains the folders Set5, Set14 and BSD100; pages drawn by drawn.py are a fourth set. MODEL is a shipped model or a
file; by default all shipped models in float32 and int8. Each image is cropped to a multiple of the scale, downscaled with the
antialiased bicubic kernel to 8 bits, upscaled with `srcli upscale`, and read back from disk. PSNR and SSIM are on luma
(BT.601), with `scale` pixels cropped from each border; lower ST-LPIPS is better; all are means over images. Ghost is the
largest error on flat areas of the drawn pages. t is the time for 320x180 pixels relative to a fixed amount of work (see
upscale_speed.py), measured for all models in alternation.
--json FILE adds the results to those in the file, and writes it after each test set.
--sets measures accuracy on these sets only. --only measures these parts: the speed of all models should be measured in one
run on an idle machine, the rest may be split.
--features SCALE adds a table for that scale: the feature loss at relu2_2 and relu4_3, the grid on flat and on textured areas,
and the spectral peak (see natural.py), where 1 is the level of the originals; and tables of PSNR and ST-LPIPS for degraded LR
images of Set5, Set14 and the example photographs.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from drawn import test_pages
from natural import ghost, grid, load_stlpips, spectral_peak
from PIL import Image as PILImage
from torch import Tensor
from upscale_speed import measure_t

from srcli.core.degradation import bicubic
from srcli.core.metrics import on_luma, psnr, ssim
from srcli.io.discover import find_images
from srcli.io.image import Image
from srcli.io.read import read_srgb
from srcli.io.write import write_image
from srcli.models.perceptual import FeatureLoss
from srcli.models.registry import INT8, SELF_ENSEMBLE, SPEED, describe_model, shipped_models

DRAWN = "Drawn"
SETS = ("Set5", "Set14", "BSD100", DRAWN)
LAYERS = ("relu2_2", "relu4_3")
MAIN = ("psnr", "ssim", "stlpips", "ghost")
PERCEPTUAL = (*LAYERS, "grid_flat", "grid_textured", "peak", "peak_90")
Pairs = list[tuple[Tensor, Tensor]]
"""(sr, hr) of each image."""
Table = dict[str, dict[str, dict[str, float]]]
"""By model, then by test set, then by metric."""
PARTS = ("speed", "accuracy", "degraded")
DEGRADED_SETS = ("Set5", "photos", "Set14")
EXAMPLES = Path(__file__).parents[1] / "examples"
Metric = Callable[[Tensor, Tensor], dict[str, float]]
DIGITS = {"ssim": 4, "stlpips": 3, "ghost": 1}
HEADINGS = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "stlpips": "ST-LPIPS",
    "grid_flat": "grid, flat",
    "grid_textured": "grid, textured",
} | {
    "peak": "peak",
    "peak_90": "peak, 90 %",
}


def read(path: Path) -> Tensor:
    return torch.from_numpy(read_srgb(path)).permute(2, 0, 1)[None].float() / 255


def truth(path: Path, scale: int) -> Tensor:
    return cropped(read(path), scale)


def cropped(hr: Tensor, scale: int) -> Tensor:
    """To a multiple of the scale."""
    height, width = (side - side % scale for side in hr.shape[-2:])
    return hr[..., :height, :width]


def hr_images(bench: Path, name: str, scale: int) -> dict[str, Tensor]:
    """The images of a test set by name."""
    if name == DRAWN:
        pages = {stem: torch.from_numpy(page).permute(2, 0, 1)[None].float() / 255 for stem, page in test_pages().items()}
        return {stem: cropped(page, scale) for stem, page in pages.items()}
    return {path.stem: truth(path, scale) for path in find_images((bench if name in SETS else EXAMPLES) / name)}


def quantized(image: Tensor) -> Tensor:
    return (image * 255).round().clamp(0, 255) / 255


@torch.inference_mode()
def score(pairs: Pairs, scale: int, metrics: list[Metric]) -> dict[str, float]:
    """The means of PSNR, SSIM and the metrics."""
    rows: list[dict[str, float]] = []
    for sr, hr in pairs:
        luma = on_luma(sr, hr, border=scale)
        row = {"psnr": psnr(*luma).item(), "ssim": ssim(*luma).item()}
        for metric in metrics:
            row |= metric(sr, hr)
        rows.append(row)
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def peaks(pairs: Pairs, scale: int) -> dict[str, float]:
    """The geometric mean and the 90th percentile of `spectral_peak` over images."""
    values = [spectral_peak(sr, scale) for sr, _ in pairs]
    return {"peak": float(np.exp(np.mean(np.log(values)))), "peak_90": float(np.percentile(values, 90))}


def feature_metric() -> Metric:
    loss = FeatureLoss(dict.fromkeys(LAYERS, 1.0))

    def metric(sr: Tensor, hr: Tensor) -> dict[str, float]:
        ours, theirs = loss.features(sr, hr)
        return {layer: loss.at_layer(layer, ours[layer], theirs[layer]).item() for layer in LAYERS}

    return metric


def stlpips_metric() -> Metric:
    stlpips = load_stlpips()
    return lambda sr, hr: {"stlpips": stlpips(sr, hr)}


def table_rows(table: Table, figures: tuple[str, ...], *, timed: bool = False, sets: tuple[str, ...] = SETS) -> list[str]:
    """The lines of a Markdown table, with the figures that all models have."""
    measured = [
        (name, figure) for name in sets for figure in figures if all(figure in row.get(name, {}) for row in table.values())
    ]
    columns = [*(["t"] if timed else []), *(f"{name} {HEADINGS.get(figure, figure)}" for name, figure in measured)]
    lines = ["| model | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for model, row in table.items():
        cells = [f"{row[name][figure]:.{DIGITS.get(figure, 2)}f}" for name, figure in measured]
        t = [f"{row[SPEED]['t']:.2f}" if SPEED in row else "-"] if timed else []
        lines.append(f"| {model} | " + " | ".join([*t, *cells]) + " |")
    return lines


def print_table(table: Table, figures: tuple[str, ...], *, timed: bool = False, sets: tuple[str, ...] = SETS) -> None:
    print("\n".join(table_rows(table, figures, timed=timed, sets=sets)))


def degrade(lr: Tensor) -> Tensor:
    """Like a cheap camera and a web site: noise with a standard deviation of 3 levels, then JPEG at quality 75 (Pillow)."""
    random = np.random.default_rng(0)
    return saved(lr + torch.from_numpy(random.normal(0, 3 / 255, lr.shape)).float(), "JPEG", quality=75)


def degrade_otherwise(lr: Tensor) -> Tensor:
    """Unlike `photo`: blur by a disc of 1.2 pixels, coarse color noise as in denoised images, and WebP."""
    places = torch.linspace(-2, 2, 41)
    fine = (places[:, None].square() + places[None].square() <= 1.2**2).float()
    disc = F.pad(fine, (2, 2, 2, 2))[None, None]
    disc = F.avg_pool2d(disc, 9)  # 5x5 with soft edges
    blurred = F.conv2d(F.pad(lr, (2, 2, 2, 2), mode="replicate").transpose(0, 1), disc / disc.sum()).transpose(0, 1)
    random = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 3, *(-(-side // 3) for side in lr.shape[-2:]), generator=random) * 4 / 255
    return saved(blurred + F.interpolate(coarse, size=lr.shape[-2:], mode="bilinear"), "WebP", quality=60)


def encoded(lr: Tensor, kind: str, **options: int) -> bytes:
    """A file that Pillow writes."""
    file = io.BytesIO()
    PILImage.fromarray((quantized(lr)[0] * 255).round().byte().permute(1, 2, 0).numpy()).save(file, kind, **options)
    return file.getvalue()


def saved(lr: Tensor, kind: str, **options: int) -> Tensor:
    """Encoded and decoded by Pillow."""
    return decoded(encoded(lr, kind, **options))


def decoded(file: bytes) -> Tensor:
    with PILImage.open(io.BytesIO(file)) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


DEGRADED = {
    "noise of 3 levels and JPEG at quality 75": degrade,
    "disc blur, coarse color noise and WebP at quality 60, none of which occur in training": degrade_otherwise,
}


def upscale_files(hrs: dict[str, Tensor], lrs: dict[str, Tensor], ways: dict[str, list[str]], scale: int) -> dict[str, Pairs]:
    """The images upscaled with bicubic interpolation, and by `srcli upscale` with each set of options."""
    with tempfile.TemporaryDirectory() as scratch:
        small, out = Path(scratch) / "lr", Path(scratch) / "sr"
        for stem, lr in lrs.items():
            write_image(Image((lr[0] * 255).round().byte().permute(1, 2, 0).numpy()), small / f"{stem}.png")
        large = {stem: F.interpolate(lr, size=hrs[stem].shape[-2:], mode="bicubic", antialias=True) for stem, lr in lrs.items()}
        upscaled = {f"bicubic-x{scale}": [(quantized(large[stem]), hr) for stem, hr in hrs.items()]}
        for way, words in ways.items():
            command = [sys.executable, "-m", "srcli", "upscale", str(small), *words, "-o", str(out), "--overwrite"]
            subprocess.run(command, check=True, capture_output=True)
            upscaled[way] = [(read(out / f"{stem}_x{scale}.png"), hr) for stem, hr in hrs.items()]
    return upscaled


def usual_models() -> list[str]:
    """The shipped models in float32 and int8, and the faithful ones with a self-ensemble as well."""
    suffixes = {"faithful": ("", INT8, INT8 + SELF_ENSEMBLE), "perceptual": ("", INT8), "photo": ("", INT8)}
    return [name + suffix for name in shipped_models() for suffix in suffixes[describe_model(name).kind]]


def merge(path: Path, table: Table) -> None:
    """Add the results to the file."""
    known: Table = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for model, row in table.items():
        known[model] = known.get(model, {}) | row
    path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def measure_accuracy(
    bench: Path, sets: tuple[str, ...], models: list[str], scale: int, metrics: list[Metric], *, grids: bool
) -> Iterator[Table]:
    """The results on each test set in turn."""
    for name in sets:
        hrs = hr_images(bench, name, scale)
        lrs = {stem: bicubic(hr, scale) for stem, hr in hrs.items()}
        pairs = upscale_files(hrs, lrs, {model: ["-m", model] for model in models}, scale)
        yield {
            model: {name: score(its, scale, metrics) | measured_on(name, its, scale, grids=grids)}
            for model, its in pairs.items()
        }


def measured_on(name: str, pairs: Pairs, scale: int, *, grids: bool) -> dict[str, float]:
    """The figures that are not means over images."""
    if name == DRAWN:
        return {"ghost": max(ghost(sr, hr, scale) for sr, hr in pairs)}
    return grid(pairs, scale) | peaks(pairs, scale) if grids else {}


def measure_degraded(bench: Path, models: list[str], scale: int, metrics: list[Metric]) -> dict[str, Table]:
    """The results on degraded images, by kind of degradation."""
    tables: dict[str, Table] = {way: {} for way in DEGRADED}
    for name in DEGRADED_SETS:
        hrs = hr_images(bench, name, scale)
        for way, change in DEGRADED.items():
            lrs = {stem: change(bicubic(hr, scale)) for stem, hr in hrs.items()}
            for model, pairs in upscale_files(hrs, lrs, {model: ["-m", model] for model in models}, scale).items():
                tables[way].setdefault(model, {})[name] = score(pairs, scale, metrics)
    return tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", type=Path)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--features", type=int, metavar="SCALE")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    options = parser.parse_args()
    sets = tuple(options.sets)
    scales = {name: describe_model(name).scale for name in options.models or usual_models()}
    table: Table = {}

    def add(results: Table) -> None:
        for model, row in results.items():
            table.setdefault(model, {}).update(row)
        if options.json:
            merge(options.json, results)

    if "speed" in options.only:
        add({model: {SPEED: {"t": t}} for model, t in measure_t(list(scales)).items()})
    for scale in sorted(set(scales.values())) if "accuracy" in options.only else ():
        models = [name for name, its in scales.items() if its == scale]
        detailed = scale == options.features
        metrics = [stlpips_metric(), *([feature_metric()] if detailed else [])]
        for results in measure_accuracy(options.bench, sets, models, scale, metrics, grids=detailed):
            add(results)
    if "accuracy" in options.only:
        print_table(table, MAIN, timed=True, sets=sets)
    detailed_rows = {model: row for model, row in table.items() if LAYERS[0] in row.get(sets[0], {})}
    if detailed_rows:
        print()
        print_table(detailed_rows, PERCEPTUAL, sets=sets)
    if options.features and "degraded" in options.only:
        models = [name for name, its in scales.items() if its == options.features]
        for way, rows in measure_degraded(options.bench, models, options.features, [stlpips_metric()]).items():
            print(f"\nLR images with {way}:\n")
            print_table(rows, ("psnr", "stlpips"), sets=DEGRADED_SETS)


if __name__ == "__main__":
    main()
