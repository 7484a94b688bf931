"""Plots of a run: the curves of its history, and a grid of validation samples."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from srcli.config import LOSS_TERMS
from srcli.io.atomic import atomic_write
from srcli.training.validation import Sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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


Rows = list[dict[str, str]]


def read_history(path: Path) -> Rows:
    """The rows of RUN/history.csv, which has those of the run before it was resumed as well. Empty without a file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def draw_curves(rows: Rows, path: Path) -> None:
    """Plot a history in one image: the weighted loss terms, the learning rate, and PSNR and SSIM compared with bicubic."""
    from matplotlib.figure import Figure  # imported late, as it takes a second; Figure alone needs no display

    figure = Figure(figsize=(11, 7.5))
    places = {"left": 0.07, "right": 0.98, "bottom": 0.07, "top": 0.95, "hspace": 0.2, "wspace": 0.17}
    for axes, (title, draw) in zip(figure.subplots(2, 2, sharex=True, gridspec_kw=places).flat, _PANELS.items(), strict=True):
        draw(axes, rows)
        axes.set_title(title)
        _finish(axes)
    with atomic_write(path) as part:
        figure.savefig(part, dpi=110)


def curves_as_svg(rows: Rows) -> dict[str, str]:
    """The same plots as SVG elements for a page, by their titles, without those that have no point. Black on no background."""
    import matplotlib
    from matplotlib.figure import Figure

    plots: dict[str, str] = {}
    without = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        for title, draw in _PANELS.items():
            figure = Figure(figsize=(5.5, 3.4))
            axes = figure.add_axes((0.14, 0.16, 0.84, 0.82))
            draw(axes, rows)
            if axes.get_lines():
                _finish(axes)
                file = io.StringIO()
                figure.savefig(file, format="svg", transparent=True, metadata=without)
                plots[title] = file.getvalue()[file.getvalue().index("<svg") :]
    return plots


def _draw_loss(axes: Axes, rows: Rows) -> None:
    terms = [term for term in LOSS_TERMS if rows and f"{term}_weighted" in rows[0]]
    for term in terms:
        _plot(axes, rows, f"{term}_weighted", color=COLORS[term], label=term)
    if len(terms) > 1:
        _plot(axes, rows, "loss", color="black", linewidth=1, label="total")
    if any(float(row["loss"] or 0) > 0 for row in rows):
        axes.set_yscale("log")


def _draw_rate(axes: Axes, rows: Rows) -> None:
    _plot(axes, rows, "lr", color=BLUE)


def _draw_scores(axes: Axes, rows: Rows, name: str) -> None:
    _plot(axes, rows, f"val_{name}", color=BLUE, marker=".", label="this run")
    _plot(axes, rows, f"bicubic_{name}", color=GRAY, linestyle="--", label="bicubic")


_PANELS: dict[str, Callable[[Axes, Rows], None]] = {
    "Training loss, weighted terms": _draw_loss,
    "Learning rate": _draw_rate,
    "Validation PSNR (dB, luma)": partial(_draw_scores, name="psnr"),
    "Validation SSIM (luma)": partial(_draw_scores, name="ssim"),
}


def _plot(axes: Axes, rows: Rows, name: str, **style: Any) -> None:
    """Plot a column of the history over the steps, if it has values."""
    known = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
    if len(known) == 1:
        style["marker"] = "."  # a line through one point is not visible
    if known:
        axes.plot(*zip(*known, strict=True), **style)


def _finish(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True))
    axes.set_xlabel("step")


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
