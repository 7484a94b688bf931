"""The HTML page of a comparison: slider, maps, worst regions, metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from srcli.evaluation.compare import Comparison
from srcli.evaluation.formatting import better, format_value, meaning_of, metrics_of, settings_of
from srcli.evaluation.heatmap import at_most, colors, overlay, scale_top
from srcli.evaluation.regions import Region, worst_regions
from srcli.io.html import data_url, png, render, stage_width

SIDE = 1600
"""Longest side of the images on the page, in pixels. Larger images are downscaled."""


def as_page(comparison: Comparison, reference: np.ndarray, candidate: np.ndarray, background: str = "white") -> str:
    """The page of one comparison with maps, as HTML. reference, candidate: H x W x 3 uint8, sRGB."""
    shown = [at_most(image, SIDE) for image in (reference, candidate)]
    height, width = shown[0].shape[:2]
    return render(
        "evaluation/comparison_page.html",
        title=f"{Path(comparison.candidate).name} against {Path(comparison.reference).name}",
        comparison=comparison,
        images=[data_url(png(image)) for image in shown],
        size=(width, height),
        stage=stage_width(width),
        maps={name: _map(values, shown[0]) for name, values in comparison.maps.items()},
        color_scale=data_url(png(colors(np.linspace(0, 1, 256)[None], 1))),
        regions=[
            (region, [data_url(png(_cut(image, region))) for image in (reference, candidate)])
            for region in worst_regions(comparison)
        ],
        rows=[
            (name, format_value(name, value), better(name), meaning_of(comparison, name))
            for name, value in metrics_of(comparison).items()
        ],
        settings=settings_of(comparison, background),
    )


THUMBNAIL = 240
"""Longest side of the images on an index page, in pixels."""


@dataclass(frozen=True)
class IndexEntry:
    """A pair on an index page. link: its own page, relative to the index."""

    comparison: Comparison
    link: str
    images: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, comparison: Comparison, link: str, reference: np.ndarray, candidate: np.ndarray) -> IndexEntry:
        """Keeps small copies of the images, H x W x 3 uint8, and no maps."""
        small = at_most(reference, THUMBNAIL), at_most(candidate, THUMBNAIL)
        return cls(replace(comparison, maps={}), link, small)


def as_index(entries: Sequence[IndexEntry], background: str = "white") -> str:
    """The page that lists pairs by their total, worst first, as HTML."""
    rows = sorted(entries, key=lambda entry: -entry.comparison.total)
    values = [metrics_of(entry.comparison) for entry in rows]
    names = list(dict.fromkeys(name for row in values for name in row))
    return render(
        "evaluation/comparison_index.html",
        title=f"{len(rows)} comparisons, worst first",
        names=names,
        rows=[
            (
                entry,
                [data_url(png(image)) for image in entry.images],
                [format_value(name, row.get(name, math.nan)) for name in names],
            )
            for entry, row in zip(rows, values, strict=True)
        ],
        settings=settings_of(rows[0].comparison, background),
    )


def _map(values: np.ndarray, photo: np.ndarray) -> dict[str, str]:
    """A map as an image over the photograph, with the numbers of its legend."""
    top = scale_top(values)
    mean = values.mean(dtype=np.float64)
    return {
        "image": data_url(png(overlay(values, photo))),
        "middle": f"{top / 2:.3g}",
        "end": f"{top:.3g}",
        "mean": f"{mean:.4g}",
    }


def _cut(image: np.ndarray, region: Region) -> np.ndarray:
    return image[region.top : region.top + region.height, region.left : region.left + region.width]
