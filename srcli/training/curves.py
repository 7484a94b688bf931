"""The history of a training run as an image: what it minimized, and how it did on photographs that it had not seen."""

from __future__ import annotations

import csv
from pathlib import Path

from srcli.io.atomic import atomic_write

COLORS = ("#1f5fa8", "#c2571a", "#2e8540", "#7b3fa0", "#8a6d00", "#b0305c", "#4a4a4a")


def draw_curves(history: Path, path: Path) -> None:
    """Draw RUN/history.csv: the weighted terms of the loss, the learning rate, and PSNR and SSIM beside bicubic."""
    from matplotlib.figure import Figure  # here, as it takes a second; a figure of its own needs no window system

    with history.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    terms = [name for name in rows[0] if name.endswith("_weighted")]
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    (loss, rate), (psnr, ssim) = figure.subplots(2, 2, sharex=True)
    for name, color in zip(terms, COLORS, strict=False):
        loss.plot(*_curve(rows, name), color=color, label=name.removesuffix("_weighted"))
    if len(terms) > 1:
        loss.plot(*_curve(rows, "loss"), color="black", linewidth=1, label="total")
    if any(float(row["loss"] or 0) > 0 for row in rows):
        loss.set_yscale("log")
    loss.set_title("Loss in training, each term times its weight")
    rate.plot(*_curve(rows, "lr"), color=COLORS[0])
    rate.set_title("Learning rate")
    for axes, name, title in ((psnr, "psnr", "PSNR on held-out photographs (dB, luma)"), (ssim, "ssim", "SSIM, the same")):
        axes.plot(*_curve(rows, f"val_{name}"), color=COLORS[0], marker=".", label="this run")
        axes.plot(*_curve(rows, f"bicubic_{name}"), color="#777777", linestyle="--", label="bicubic")
        axes.set_title(title)
        axes.set_xlabel("step")
    for axes in (loss, psnr, ssim):
        if axes.get_lines() and any(len(line.get_xdata()) for line in axes.get_lines()):
            axes.legend(frameon=False)
    for axes in (loss, rate, psnr, ssim):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as part:
        figure.savefig(part, dpi=110)


def _curve(rows: list[dict[str, str]], name: str) -> tuple[list[int], list[float]]:
    known = [row for row in rows if row[name]]
    return [int(row["step"]) for row in known], [float(row[name]) for row in known]
