"""The HTML page of a comparison: slider, maps, worst regions, metrics."""

from __future__ import annotations

import html
import json
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

from srcli.evaluation.compare import Comparison, Region, worst_regions
from srcli.evaluation.formatting import better, format_value, meaning_of, metrics_of, settings_of
from srcli.evaluation.heatmap import at_most, colors, overlay, scale_top
from srcli.evaluation.html import data_url, page, png, slider, stage_width
from srcli.version import __version__

SIDE = 1600
"""Longest side of the images on the page, in pixels. Larger images are downscaled."""

_BODY = Path(__file__).with_name("comparison_page.html")


def as_page(comparison: Comparison, reference: np.ndarray, candidate: np.ndarray, background: str = "white") -> str:
    """The page of one comparison with maps, as HTML. reference, candidate: H x W x 3 uint8, sRGB."""
    shown = {"reference": at_most(reference, SIDE), "candidate": at_most(candidate, SIDE)}
    height, width = shown["reference"].shape[:2]
    regions = worst_regions(comparison)
    maps = {
        name: {
            "image": data_url(png(overlay(values, shown["reference"]))),
            "end": f"{scale_top(values):.3g}",
            "middle": f"{scale_top(values) / 2:.3g}",
            "mean": f"{values.mean(dtype=np.float64):.4g}",
        }
        for name, values in comparison.maps.items()
    }
    bar = Image.fromarray(colors(np.tile(np.linspace(0, 1, 256), (1, 1)), 1))
    boxes = "".join(
        f'<rect x="{r.left}" y="{r.top}" width="{r.width}" height="{r.height}"/>'
        f'<text x="{r.left + 4}" y="{r.top + 4}">{number}</text>'
        for number, r in enumerate(regions, start=1)
    )
    title = f"{Path(comparison.candidate).name} against {Path(comparison.reference).name}"
    body = Template(_BODY.read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        slider=slider(
            *(data_url(png(image)) for image in shown.values()),
            names=(f"reference, {comparison.reference}", f"candidate, {comparison.candidate}"),
            size=(width, height),
            stage=stage_width(width),
            exact=True,
        ),
        width=width,
        height=height,
        stage=stage_width(width),
        view=f"0 0 {comparison.width} {comparison.height}",
        full=f"{comparison.width}x{comparison.height}",
        font=max(12, comparison.width // 40),
        options="".join(f'<option value="{name}">{name}, mean {entry["mean"]}</option>' for name, entry in maps.items()),
        maps=json.dumps(maps),
        first_map=next(iter(maps.values()))["image"],
        first_middle=next(iter(maps.values()))["middle"],
        first_end=next(iter(maps.values()))["end"],
        bar=data_url(png(bar)),
        boxes=boxes,
        regions="".join(_region(number, region, reference, candidate) for number, region in enumerate(regions, start=1)),
        rows="".join(_row(comparison, name, value) for name, value in metrics_of(comparison).items()),
        made=html.escape(settings_of(comparison, background)),
        version=__version__,
    )
    return page(title, body)


def _row(comparison: Comparison, name: str, value: float) -> str:
    cells = (name, format_value(name, value), better(name), meaning_of(comparison, name))
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def _region(number: int, region: Region, reference: np.ndarray, candidate: np.ndarray) -> str:
    rows, columns = slice(region.top, region.top + region.height), slice(region.left, region.left + region.width)
    details = "".join(
        f'<figure><img alt="{name}, region {number}" src="{data_url(png(pixels[rows, columns]))}">'
        f"<figcaption>{name}</figcaption></figure>"
        for name, pixels in (("reference", reference), ("candidate", candidate))
    )
    where = f"{region.width}x{region.height} pixels at {region.left}, {region.top}"
    return f"<li><p><b>{number}</b> {where}: total {region.total:.4g}</p><div class=pair>{details}</div></li>"
