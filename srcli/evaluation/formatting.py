"""Comparisons as tables, JSON and CSV, and limits on them."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from srcli.config import LOSS_TERMS
from srcli.version import __version__

if TYPE_CHECKING:
    from srcli.evaluation.compare import Comparison

JSON_VERSION = 1
"""Version of the schema of `as_json`, which docs/compare-loss.md describes."""

HIGHER_IS_BETTER = ("psnr", "ssim", "psnr_y", "ssim_y")
"""Of all other metrics, lower is better."""

TERMS = {
    "l1": "mean absolute error of RGB in 0..1",
    "charbonnier": "mean smoothed absolute error of RGB in 0..1",
    "tv": "mean absolute difference of neighboring pixels of the candidate",
}
"""Terms of a loss that are shown if they have a weight."""

LEARNED = {
    "lpips": "LPIPS with AlexNet (Zhang et al. 2018)",
    "dists": "DISTS (Ding et al. 2020)",
}
"""Metrics that are trained on human judgments; srcli.evaluation.learned computes them."""

MEANINGS = {
    "pixel": "mean squared error of RGB in 0..1",
    "feature": "the weighted sum of the layers",
    "total": "what srcli train would minimize",
    "psnr": "dB, RGB",
    "ssim": "RGB, at most 1",
    "psnr_y": "dB, luma",
    "ssim_y": "luma, at most 1",
    "alpha": "mean squared error of alpha in 0..1",
}


def metrics_of(comparison: Comparison) -> dict[str, float]:
    """Every metric by name, in the order in which it is shown. alpha is included only if an image has alpha."""
    values = {name: getattr(comparison, name) for name in MEANINGS}
    if math.isnan(values["alpha"]):
        del values["alpha"]
    if comparison.luma:
        values |= {name: values.pop(f"{name}_y") for name in ("psnr", "ssim")}
    pixel = values.pop("pixel")
    return {"pixel": pixel, **comparison.terms, **comparison.layers, **values, **comparison.learned}


def summary(comparisons: Sequence[Comparison]) -> dict[str, dict[str, float]]:
    """Mean, median and worst value of each metric over several pairs."""
    rows = [metrics_of(comparison) for comparison in comparisons]
    columns = {name: [row[name] for row in rows if name in row] for name in rows[0]}
    return {
        "mean": {name: sum(values) / len(values) for name, values in columns.items()},
        "median": {name: statistics.median(values) for name, values in columns.items()},
        "worst": {name: min(values) if name in HIGHER_IS_BETTER else max(values) for name, values in columns.items()},
    }


def as_table(comparison: Comparison, background: str = "white", yardstick: Comparison | None = None) -> str:
    """One pair: a line per metric with its value, which direction is better, and what it is.

    yardstick: a comparison of the reference with a known candidate, whose values stand in a column of their own.
    """
    known = metrics_of(yardstick) if yardstick else {}
    lines = [f"{'':<8} {'candidate':>10} {yardstick.candidate:>12}"] if yardstick else []
    for name, value in metrics_of(comparison).items():
        other = f" {format_value(name, known[name]):>12}" if name in known else ""
        lines.append(
            f"{name:<8} {format_value(name, value):>10}{other}  {better(name):<6} is better  {meaning_of(comparison, name)}"
        )
    if yardstick:
        lines += ["", f"{yardstick.candidate}: the reference, downscaled by 4 and upscaled again with bicubic interpolation."]
    lines += ["", f"{comparison.candidate} against {comparison.reference}, {comparison.width}x{comparison.height} pixels."]
    return "\n".join([*lines, settings_of(comparison, background)])


def meaning_of(comparison: Comparison, name: str) -> str:
    """What a metric is, and its weight in the total."""
    loss = comparison.loss
    if name in loss.layers:
        return f"mean {loss.distance} distance of VGG16 features, weight {loss.feature * loss.layers[name]:g}"
    if name == "pixel" or name in TERMS:
        return f"{(MEANINGS | TERMS)[name]}, weight {getattr(loss, name):g}"
    name = f"{name}_y" if comparison.luma and name in ("psnr", "ssim") else name
    return (MEANINGS | LEARNED)[name]


def as_rows(
    comparisons: Sequence[Comparison], *, by: str, mark_best: bool, with_summary: bool, background: str = "white"
) -> str:
    """Several pairs: a row for each, named by its `by` (candidate or reference). mark_best: star the best of each column."""
    rows = {getattr(comparison, by): metrics_of(comparison) for comparison in comparisons}
    if with_summary:
        rows |= summary(comparisons)
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    best = {
        name: (max if name in HIGHER_IS_BETTER else min)(row[name] for row in rows.values() if name in row)
        if mark_best
        else math.nan
        for name in names
    }
    cells = [[by, *names]]
    for label, row in rows.items():
        cells.append([label, *(_cell(name, row.get(name, math.nan), best[name]) for name in names)])
    cells.append(["better", *(better(name) for name in names)])
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if n == 0 else cell.rjust(width) for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    against = f"Compared with {comparisons[0].reference}. " if by == "candidate" else ""
    star = "* marks the best value of a column. " if mark_best else ""
    remarks = f"{against}{star}".rstrip()
    return "\n".join([*lines, "", *([remarks] if remarks else []), settings_of(comparisons[0], background)])


def settings_of(comparison: Comparison, background: str) -> str:
    """How the metrics were computed, one line per subject."""
    loss = comparison.loss
    layers = ", ".join(f"{weight:g} {layer}" for layer, weight in loss.layers.items())
    terms = " + ".join(f"{getattr(loss, name):g} {name}" for name in LOSS_TERMS if getattr(loss, name))
    return (
        f"Total: {terms}, with feature = {layers}.\n"
        f"VGG16: {comparison.vgg}; features are divided by their layer's mean activation on photographs.\n"
        f"sRGB in 0..1, transparency over {background}, luma BT.601 16..235, "
        f"{'no border' if not comparison.crop_border else f'a border of {comparison.crop_border} pixels'} cropped."
    )


def as_json(comparisons: Sequence[Comparison], *, background: str = "white", with_summary: bool = False) -> str:
    """One document at full precision. Infinite PSNR (equal images) is the string "inf"; metrics without a value are null."""
    first = comparisons[0]
    document: dict[str, Any] = {
        "version": JSON_VERSION,
        "srcli": __version__,
        "vgg": first.vgg,
        "weights": {name: getattr(first.loss, name) for name in ("pixel", *TERMS, "feature")}
        | {"layers": dict(first.loss.layers)},
        "distance": first.loss.distance,
        "background": background,
        "crop_border": first.crop_border,
        "luma": first.luma,
        "pairs": [
            {
                "reference": comparison.reference,
                "candidate": comparison.candidate,
                "width": comparison.width,
                "height": comparison.height,
                "figures": _json_values(metrics_of(comparison)),
            }
            for comparison in comparisons
        ],
    }
    if with_summary:
        document["summary"] = {name: _json_values(row) for name, row in summary(comparisons).items()}
    return json.dumps(document, indent=2, allow_nan=False)


def as_csv(comparisons: Sequence[Comparison]) -> str:
    """A header and a row per pair, at full precision. Metrics without a value are empty; infinity is `inf`."""
    rows = [metrics_of(comparison) for comparison in comparisons]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["reference", "candidate", "width", "height", *names])
    for comparison, row in zip(comparisons, rows, strict=True):
        values = ["" if math.isnan(row.get(name, math.nan)) else repr(row[name]) for name in names]
        writer.writerow([comparison.reference, comparison.candidate, comparison.width, comparison.height, *values])
    return text.getvalue().rstrip("\n")


def missed_limits(comparison: Comparison, most: Mapping[str, float], least: Mapping[str, float]) -> list[str]:
    """A sentence for each limit that a comparison misses. A metric without a value misses every limit."""
    row = metrics_of(comparison)
    sentences = []
    for name, limit in most.items():
        if not row.get(name, math.nan) <= limit:
            sentences.append(f"{comparison.candidate}: {name} is {row.get(name, math.nan):.6g}, above the limit of {limit:g}.")
    for name, limit in least.items():
        if not row.get(name, math.nan) >= limit:
            sentences.append(f"{comparison.candidate}: {name} is {row.get(name, math.nan):.6g}, below the limit of {limit:g}.")
    return sentences


def better(name: str) -> str:
    return "higher" if name in HIGHER_IS_BETTER else "lower"


def format_value(name: str, value: float) -> str:
    """A metric as tables show it."""
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if name.startswith("psnr") else f"{value:.4f}" if name.startswith("ssim") else f"{value:.5g}"


def _cell(name: str, value: float, best: float) -> str:
    return format_value(name, value) + ("*" if value == best else "")


def _json_values(row: Mapping[str, float]) -> dict[str, float | str | None]:
    return {name: None if math.isnan(value) else "inf" if math.isinf(value) else value for name, value in row.items()}
