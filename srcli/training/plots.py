"""Plots of a run: the curves of its history, and a grid of validation samples."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from srcli.config import LOSS_TERMS
from srcli.io.atomic import atomic_write
from srcli.training.validation import Sample

COLORS = dict(
    zip(
        LOSS_TERMS,
        (
            "#1f5fa8",
            "#c2571a",
            "#2e8540",
            "#7b3fa0",
            "#8a6d00",
            "#b0305c",
            "#4a4a4a",
            "#1a8f8f",
            "#d08bd0",
            "#9acd32",
            "#e0a030",
        ),
        strict=True,
    )
)
"""The color of each term of the loss."""
BLUE, GRAY = "#1f5fa8", "#777777"

GAP = 6
HEADER = 22


def draw_curves(history: Path, path: Path) -> None:
    """Plot RUN/history.csv: the weighted loss terms, the learning rate, and PSNR and SSIM compared with bicubic.

    The file is read because it also has the rows of the run before it was resumed.
    """
    from matplotlib.figure import Figure  # imported late, as it takes a second; Figure alone needs no display

    with history.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    terms = [term for term in LOSS_TERMS if f"{term}_weighted" in rows[0]]
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    (loss, rate), (psnr, ssim) = figure.subplots(2, 2, sharex=True)
    for term in terms:
        loss.plot(*_curve(rows, f"{term}_weighted"), color=COLORS[term], label=term)
    if len(terms) > 1:
        loss.plot(*_curve(rows, "loss"), color="black", linewidth=1, label="total")
    if any(float(row["loss"] or 0) > 0 for row in rows):
        loss.set_yscale("log")
    loss.set_title("Training loss, weighted terms")
    rate.plot(*_curve(rows, "lr"), color=BLUE)
    rate.set_title("Learning rate")
    for axes, name, title in ((psnr, "psnr", "Validation PSNR (dB, luma)"), (ssim, "ssim", "Validation SSIM (luma)")):
        axes.plot(*_curve(rows, f"val_{name}"), color=BLUE, marker=".", label="this run")
        axes.plot(*_curve(rows, f"bicubic_{name}"), color=GRAY, linestyle="--", label="bicubic")
        axes.set_title(title)
        axes.set_xlabel("step")
    for axes in (loss, psnr, ssim):
        if axes.get_lines() and any(len(line.get_xdata()) for line in axes.get_lines()):
            axes.legend(frameon=False)
    for line in (*loss.get_lines(), *rate.get_lines()):
        if len(line.get_xdata()) == 1:  # a line through one point is not visible
            line.set_marker(".")
    for axes in (loss, rate, psnr, ssim):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as part:
        figure.savefig(part, dpi=110)


def _curve(rows: list[dict[str, str]], name: str) -> tuple[list[int], list[float]]:
    known = [row for row in rows if row[name]]
    return [int(row["step"]) for row in known], [float(row[name]) for row in known]


def draw_sample_grid(samples: Sequence[Sample], path: Path, *, step: int) -> None:
    """A row per sample with four images, pixel for pixel: lr (pixels repeated), bicubic, sr, hr."""
    rows = [_row(sample) for sample in samples]
    width = max(row.shape[1] for row in rows)
    height = sum(row.shape[0] + GAP for row in rows)
    sheet = Image.new("RGB", (width, HEADER + height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    column = samples[0].hr.shape[1] + GAP
    for number, title in enumerate(("lr", "bicubic", f"sr, step {step}", "hr")):
        draw.text((number * column + 2, 3), title, fill="black", font=font)
    top = HEADER
    for row in rows:
        sheet.paste(Image.fromarray(row), (0, top))
        top += row.shape[0] + GAP
    with atomic_write(path) as part:
        sheet.save(part)


def _row(sample: Sample) -> np.ndarray:
    scale = sample.hr.shape[0] // sample.lr.shape[0]
    images = (sample.lr.repeat(scale, axis=0).repeat(scale, axis=1), sample.bicubic, sample.sr, sample.hr)
    gap = np.full((sample.hr.shape[0], GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([part for image in images for part in (image, gap)][:-1], axis=1)
