"""Upscaled images in, one HTML page out: each before and after, by bicubic and by the model, under a slider."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from srcli.evaluation.html import data, page, slider, stage_width
from srcli.inference.previews import PreviewPair
from srcli.version import __version__


@dataclass(frozen=True)
class UpscaledImage:
    """What became of an image. lr, sr: width and height. how: by what and in which time. views: the whole first."""

    source: str
    target: str
    lr: tuple[int, int]
    sr: tuple[int, int]
    how: str
    views: Sequence[PreviewPair]


def as_page(upscaled_images: Sequence[UpscaledImage], *, left_out: int = 0) -> str:
    """The page. left_out: how many more were upscaled that are not among these."""
    one = upscaled_images[0].source if len(upscaled_images) == 1 else None
    title = f"{one}, before and after" if one else f"{len(upscaled_images)} images, before and after"
    more = f"{left_out} more were upscaled; a page shows the first {len(upscaled_images)}." if left_out else ""
    sections = "".join(_section(upscaled, named=not one) for upscaled in upscaled_images)
    return page(
        title,
        f"""<h1>{html.escape(title)}</h1>
<p>Left of the slider is the image upscaled by bicubic, right of it what srcli made of it; colors as sRGB with 8 bits.
{more}</p>
{sections}
<p class="about">srcli {__version__}</p>
""",
    )


def _section(upscaled: UpscaledImage, *, named: bool) -> str:
    whole, *details = upscaled.views
    shown = whole.piece.shown
    (width, height), (wide, high) = upscaled.lr, upscaled.sr
    source, target, how = (html.escape(words) for words in (upscaled.source, upscaled.target, upscaled.how))
    heading = f"<h2>{source}</h2>" if named else ""
    reduced = f" Shown at {shown[0]}x{shown[1]}; the details are pixel for pixel." if details else ""
    pieces = "".join(_detail(view) for view in details)
    return f"""<section>{heading}
{_slider(whole, stage=stage_width(shown[0]))}
<p class="about">{source}, {width}x{height} pixels, became {target}, {wide}x{high} pixels, {how}.{reduced}</p>
<ol class="details">{pieces}</ol>
</section>
"""


def _detail(view: PreviewPair) -> str:
    piece = view.piece
    return f"<li><p>{piece.width}x{piece.height} pixels at {piece.left}, {piece.top}</p>{_slider(view, stage=piece.width)}</li>"


def _slider(view: PreviewPair, *, stage: int) -> str:
    return slider(
        data(view.bicubic),
        data(view.result),
        names=("bicubic", "srcli"),
        size=view.piece.shown,
        stage=stage,
        exact=stage > view.piece.shown[0],
    )
