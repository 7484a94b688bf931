"""Comparisons in, words for people or programs out: a table, JSON, CSV, and whether limits are kept."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from srcli.config import LOSS_TERMS, LossConfig
from srcli.errors import ConfigError, did_you_mean
from srcli.version import __version__

if TYPE_CHECKING:
    from srcli.evaluation.compare import Comparison

JSON_VERSION = 1
"""Version of the shape that `as_json` gives; docs/compare-loss.md describes it."""

HIGHER = ("psnr", "ssim", "psnr_y", "ssim_y")
"""Figures of which more is better; of all others less is."""

TERMS = {
    "l1": "mean absolute error of RGB in 0..1",
    "charbonnier": "mean smoothed absolute error of RGB in 0..1",
    "tv": "mean absolute difference of neighboring pixels of the candidate",
}
"""Terms of a loss that are shown where they weigh something."""

MEANING = {
    "pixel": "mean squared error of RGB in 0..1",
    "feature": "the weighted sum of the layers",
    "total": "what srcli train would minimise",
    "psnr": "dB, RGB",
    "ssim": "RGB, at most 1",
    "psnr_y": "dB, luma",
    "ssim_y": "luma, at most 1",
    "alpha": "mean squared error of alpha in 0..1",
}


def figures(comparison: Comparison) -> dict[str, float]:
    """Every figure by name, in the order in which it is shown; alpha only where an image has any."""
    plain = {name: getattr(comparison, name) for name in MEANING}
    if math.isnan(plain["alpha"]):
        del plain["alpha"]
    pixel = plain.pop("pixel")
    return {"pixel": pixel, **comparison.terms, **comparison.layers, **plain}


def summary(comparisons: Sequence[Comparison]) -> dict[str, dict[str, float]]:
    """Mean, median and worst of each figure over several pairs."""
    rows = [figures(comparison) for comparison in comparisons]
    columns = {name: [row[name] for row in rows if name in row] for name in rows[0]}
    return {
        "mean": {name: sum(values) / len(values) for name, values in columns.items()},
        "median": {name: statistics.median(values) for name, values in columns.items()},
        "worst": {name: min(values) if name in HIGHER else max(values) for name, values in columns.items()},
    }


def as_table(comparison: Comparison, background: str = "white") -> str:
    """One pair: a line for each figure with its value, which way is better, and what it is."""
    lines = []
    for name, value in figures(comparison).items():
        meaning = meaning_of(comparison, name)
        lines.append(f"{name:<8} {format_figure(name, value):>10}  {better(name):<6} is better  {meaning}")
    lines += ["", f"{comparison.candidate} against {comparison.reference}, {comparison.width}x{comparison.height} pixels."]
    return "\n".join([*lines, how_it_was_made(comparison, background)])


def meaning_of(comparison: Comparison, name: str) -> str:
    """What a figure is, and what it weighs in the total."""
    loss = comparison.loss
    if name in loss.layers:
        return f"mean {loss.distance} distance of VGG16 features, weight {loss.feature * loss.layers[name]:g}"
    if name == "pixel" or name in TERMS:
        return f"{(MEANING | TERMS)[name]}, weight {getattr(loss, name):g}"
    return MEANING[name]


def as_rows(
    comparisons: Sequence[Comparison], *, by: str, mark_best: bool, with_summary: bool, background: str = "white"
) -> str:
    """Several pairs: a row each, named by their `by` (candidate or reference); the best of a column marked with a star."""
    rows = {getattr(comparison, by): figures(comparison) for comparison in comparisons}
    if with_summary:
        rows |= summary(comparisons)
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    best = {
        name: (max if name in HIGHER else min)(row[name] for row in rows.values() if name in row) if mark_best else math.nan
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
    against = f"Against {comparisons[0].reference}. " if by == "candidate" else ""
    star = "The best of each column has a star. " if mark_best else ""
    return "\n".join([*lines, "", f"{against}{star}".rstrip(), how_it_was_made(comparisons[0], background)])


def how_it_was_made(comparison: Comparison, background: str) -> str:
    """The choices behind the figures, in one sentence each."""
    loss = comparison.loss
    layers = ", ".join(f"{weight:g} {layer}" for layer, weight in loss.layers.items())
    terms = " + ".join(f"{getattr(loss, name):g} {name}" for name in LOSS_TERMS if getattr(loss, name))
    return (
        f"Total: {terms}, with feature = {layers}.\n"
        f"VGG16: {comparison.vgg}, features in units of their layer's mean activation on photographs.\n"
        f"sRGB in 0..1, transparency over {background}, luma BT.601 16..235, no border cut."
    )


def as_json(comparisons: Sequence[Comparison], *, background: str = "white", with_summary: bool = False) -> str:
    """One document at full precision; infinite PSNR (equal images) is the string "inf", and what has no value is null."""
    first = comparisons[0]
    document: dict[str, Any] = {
        "version": JSON_VERSION,
        "srcli": __version__,
        "vgg": first.vgg,
        "weights": {name: getattr(first.loss, name) for name in ("pixel", *TERMS, "feature")}
        | {"layers": dict(first.loss.layers)},
        "distance": first.loss.distance,
        "background": background,
        "pairs": [
            {
                "reference": comparison.reference,
                "candidate": comparison.candidate,
                "width": comparison.width,
                "height": comparison.height,
                "figures": _plain(figures(comparison)),
            }
            for comparison in comparisons
        ],
    }
    if with_summary:
        document["summary"] = {name: _plain(row) for name, row in summary(comparisons).items()}
    return json.dumps(document, indent=2, allow_nan=False)


def as_csv(comparisons: Sequence[Comparison]) -> str:
    """A header and a row for each pair, at full precision; what has no value is empty, infinity is `inf`."""
    rows = [figures(comparison) for comparison in comparisons]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["reference", "candidate", "width", "height", *names])
    for comparison, row in zip(comparisons, rows, strict=True):
        values = ["" if math.isnan(row.get(name, math.nan)) else repr(row[name]) for name in names]
        writer.writerow([comparison.reference, comparison.candidate, comparison.width, comparison.height, *values])
    return text.getvalue().rstrip("\n")


def parse_limits(words: Sequence[str], loss: LossConfig) -> dict[str, float]:
    """`total=0.02` and the like. Raises ConfigError for a figure that there is none of, or no number."""
    limits: dict[str, float] = {}
    known = [*MEANING, *loss.layers, *(name for name in TERMS if getattr(loss, name))]
    for word in words:
        name, _, number = word.partition("=")
        if name not in known:
            raise ConfigError(f"There is no figure called {name!r}. {did_you_mean(name, known)}")
        try:
            limits[name] = float(number)
        except ValueError:
            raise ConfigError(f"The limit of {name} is {number!r}, which is no number; write {name}=0.5.") from None
        if math.isnan(limits[name]):
            raise ConfigError(f"The limit of {name} is nan; write {name}=0.5.")
    return limits


def missed(comparison: Comparison, most: Mapping[str, float], least: Mapping[str, float]) -> list[str]:
    """A sentence for each limit that a comparison does not keep; a figure without value keeps none."""
    row = figures(comparison)
    sentences = []
    for name, limit in most.items():
        if not row.get(name, math.nan) <= limit:
            sentences.append(
                f"{comparison.candidate}: {name} is {row.get(name, math.nan):.6g}, and should be at most {limit:g}."
            )
    for name, limit in least.items():
        if not row.get(name, math.nan) >= limit:
            sentences.append(
                f"{comparison.candidate}: {name} is {row.get(name, math.nan):.6g}, and should be at least {limit:g}."
            )
    return sentences


def better(name: str) -> str:
    return "higher" if name in HIGHER else "lower"


def format_figure(name: str, value: float) -> str:
    """A figure as tables show it."""
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if name.startswith("psnr") else f"{value:.4f}" if name.startswith("ssim") else f"{value:.5g}"


def _cell(name: str, value: float, best: float) -> str:
    return format_figure(name, value) + ("*" if value == best else "")


def _plain(row: Mapping[str, float]) -> dict[str, float | str | None]:
    return {name: None if math.isnan(value) else "inf" if math.isinf(value) else value for name, value in row.items()}
