"""A comparison in, words for people or programs out."""

from __future__ import annotations

import json
import math
from typing import Any

from srcli.comparison import Comparison

JSON_VERSION = 1


def as_table(comparison: Comparison) -> str:
    """A line for each figure: its name, its value, which way is better and what it is."""
    loss = comparison.loss
    rows = [
        ("pixel", comparison.pixel, "lower", f"mean squared error of RGB in 0..1, weight {loss.pixel:g}"),
        *(
            (layer, distance, "lower", f"mean squared distance of VGG16 features, weight {loss.feature * loss.layers[layer]:g}")
            for layer, distance in comparison.layers.items()
        ),
        ("total", comparison.total, "lower", "the weighted sum of these"),
        ("psnr", comparison.psnr, "higher", "dB, RGB"),
        ("ssim", comparison.ssim, "higher", "RGB, at most 1"),
        ("psnr_y", comparison.psnr_y, "higher", "dB, luma"),
        ("ssim_y", comparison.ssim_y, "higher", "luma, at most 1"),
    ]
    lines = [
        f"{name:<8}  {_figure(name, value):>10}  {better + ' is better':<17}  {what}" for name, value, better, what in rows
    ]
    lines += [
        "",
        f"{comparison.candidate} against {comparison.reference}, {comparison.width}x{comparison.height} pixels, no border cut.",
        f"VGG16: {comparison.vgg}. Features are in units of their layer's mean activation on photographs.",
    ]
    return "\n".join(lines)


def _figure(name: str, value: float) -> str:
    return f"{value:.2f}" if name.startswith("psnr") else f"{value:.4f}" if name.startswith("ssim") else f"{value:.5g}"


def as_json(comparison: Comparison) -> str:
    """One document at full precision; infinite PSNR (equal pictures) is the string "inf", and what has no value is null."""
    figures = {name: getattr(comparison, name) for name in ("pixel", "feature", "total", "psnr", "ssim", "psnr_y", "ssim_y")}
    document = {
        "version": JSON_VERSION,
        "reference": comparison.reference,
        "candidate": comparison.candidate,
        "width": comparison.width,
        "height": comparison.height,
        "vgg": comparison.vgg,
        "weights": {
            "pixel": comparison.loss.pixel,
            "feature": comparison.loss.feature,
            "layers": dict(comparison.loss.layers),
        },
        **{name: _plain(value) for name, value in figures.items()},
        "layers": comparison.layers,
    }
    return json.dumps(document, indent=2, allow_nan=False)


def _plain(value: float) -> Any:
    return None if math.isnan(value) else "inf" if math.isinf(value) else value
