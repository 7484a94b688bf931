"""The HTML page that compares upscaled images with bicubic interpolation, under a slider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from srcli.inference.previews import PreviewPair
from srcli.io.html import render


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
    subject = images[0].source if len(images) == 1 else f"{len(images)} images"
    return render("evaluation/upscale_page.html", title=f"{subject}, before and after", images=images, left_out=left_out)
