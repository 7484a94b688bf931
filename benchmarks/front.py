"""Plot PSNR on Set5 at x4 against time on a CPU, for srcli's faithful models and for published networks.

    python benchmarks/front.py [--out docs/front.png]

srcli's results are those that quality.py wrote. peers.csv contains published networks with their published weights, measured
once on two CPU cores in eager torch: PSNR on luma with 4 pixels cropped from each border, and t, the time for 320x180 pixels
relative to sixteen 3x3 convolutions of 64 to 64 channels at that size (the middle, if a range was measured). t_openvino is the
time of some of them in OpenVINO, in float32 like their published code, as peers.py measured it. Their inputs were downscaled
with MATLAB's bicubic kernel, srcli's with the same kernel and its own rounding.
"""

from __future__ import annotations

import argparse
import csv
from itertools import product
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from srcli.models.registry import SPEED, describe_model, read_benchmarks

LOWEST = 31.2
"""PSNR where the plot begins."""

Point = tuple[str, float, float]
"""Name, t, PSNR."""


def ours() -> list[Point]:
    figures = read_benchmarks()
    measured = [describe_model(name) for name, row in figures.items() if SPEED in row]
    models = [model for model in measured if (model.scale, model.kind) == (4, "faithful")]
    points = [(model.name, figures[model.name][SPEED]["t"], figures[model.name]["Set5"]["psnr"]) for model in models]
    return sorted(points, key=lambda point: -point[2])


def peers(column: str) -> list[Point]:
    """The published networks with a time in this column."""
    with (Path(__file__).parent / "peers.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row[column]]
        return [(row["network"], float(row[column]), float(row["set5"])) for row in rows]


def add_labels(axes: Axes, points: list[Point]) -> None:
    """Name each point, beside it where nothing is in the way."""
    axes.figure.canvas.draw()
    dots = [axes.transData.transform((t, psnr)) for _, t, psnr in points]
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in dots]
    for name, t, psnr in points:
        for across, place in product(("left", "right", "center"), ((6, 5), (6, -12), (8, -3), (6, 14), (6, -21))):
            x, y = {"left": 1, "right": -1, "center": 0}[across] * place[0], place[1]
            if across == "center" and abs(y) < 5:
                continue
            label = axes.annotate(name, (t, psnr), (x, y), textcoords="offset points", ha=across, fontsize=8, color="#333333")
            box = label.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            label.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/front.png"))
    options = parser.parse_args()
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.subplots()
    published, faster = peers("t"), peers("t_openvino")
    kinds = (
        (published, "#b0b0b0", "o", "published, in torch as published"),
        (faster, "#3b6ea5", "o", "the same in OpenVINO, float32"),
        (ours(), "#c2571a", "D", "srcli in OpenVINO, float32 and int8"),
    )
    for points, color, marker, label in kinds:
        axes.scatter([t for _, t, _ in points], [psnr for _, _, psnr in points], color=color, marker=marker, label=label)
    for name, t, psnr in faster:
        axes.plot([t, next(its for other, its, _ in published if other == name)], [psnr, psnr], color="#b0b0b0", zorder=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("t: time for 320x180 to 1280x720 on two CPU cores, in units of a fixed piece of work")
    axes.set_ylabel("PSNR on Set5, x4 (dB)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    axes.set_ylim(LOWEST, None)
    lower = [f"{name} ({psnr:.2f} dB, t {t:g})" for name, t, psnr in published if psnr < LOWEST]
    axes.text(0.01, 0.02, f"below: {', '.join(lower)}", transform=axes.transAxes, fontsize=8, color="#333333")
    twice = {name for name, _, _ in faster}
    named = [*ours(), *faster, *(point for point in published if point[0] not in twice)]
    add_labels(axes, [point for point in named if point[2] >= LOWEST])
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
