"""The HTML page that compares upscaled images with bicubic interpolation, under a slider."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from srcli.errors import counted
from srcli.evaluation.html import data_url, page, slider, stage_width
from srcli.inference.previews import PreviewPair
from srcli.version import __version__


@dataclass(frozen=True)
class UpscaledImage:
    """An image on the page. lr, sr: width and height. how: by which model, where and how fast. previews: the whole first."""

    source: str
    target: str
    lr: tuple[int, int]
    sr: tuple[int, int]
    how: str
    previews: Sequence[PreviewPair]


def as_page(images: Sequence[UpscaledImage], *, left_out: int = 0) -> str:
    """The page as HTML. left_out: how many more images were upscaled."""
    only = images[0].source if len(images) == 1 else None
    title = f"{only}, before and after" if only else f"{len(images)} images, before and after"
    more = f"This page shows the first {counted(len(images), 'image')} of {len(images) + left_out}." if left_out else ""
    sections = "".join(_section(image, named=not only) for image in images)
    return page(
        title,
        f"""<h1>{html.escape(title)}</h1>
<p>Left of the slider: bicubic interpolation. Right: srcli. Colors are shown as 8-bit sRGB.
{more}</p>
{sections}
<p class="about">srcli {__version__}</p>
""",
    )


def _section(image: UpscaledImage, *, named: bool) -> str:
    whole, *details = image.previews
    shown = whole.region.shown
    (width, height), (wide, high) = image.lr, image.sr
    source, target, how = (html.escape(text) for text in (image.source, image.target, image.how))
    heading = f"<h2>{source}</h2>" if named else ""
    downscaled = f" Shown at {shown[0]}x{shown[1]}; the details are shown pixel for pixel." if details else ""
    return f"""<section>{heading}
{_slider(whole, stage=stage_width(shown[0]))}
<p class="about">{source}, {width}x{height} pixels, to {target}, {wide}x{high} pixels: {how}.{downscaled}</p>
<ol class="details">{"".join(_detail(preview) for preview in details)}</ol>
</section>
"""


def _detail(preview: PreviewPair) -> str:
    region = preview.region
    where = f"{region.width}x{region.height} pixels at {region.left}, {region.top}"
    return f"<li><p>{where}</p>{_slider(preview, stage=region.width)}</li>"


def _slider(preview: PreviewPair, *, stage: int) -> str:
    return slider(
        data_url(preview.bicubic),
        data_url(preview.result),
        names=("bicubic", "srcli"),
        size=preview.region.shown,
        stage=stage,
        exact=stage > preview.region.shown[0],
    )
