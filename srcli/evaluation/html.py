"""Parts shared by the HTML pages: self-contained, light and dark, for screens of any width and for print."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

_TEMPLATE = Path(__file__).with_name("page.html")
_JPEG = b"\xff\xd8"


def page(title: str, body: str) -> str:
    """A complete page. title: plain text. body: HTML."""
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(title=html.escape(title), body=body)


def slider(left: str, right: str, *, names: tuple[str, str], size: tuple[int, int], stage: int, exact: bool = False) -> str:
    """Two images on top of each other with a movable edge.

    left, right: from `data_url`. names: a label and a description for each, as in `reference, file.png`. size: width and height
    of both. stage: largest width on the page, in pixels. exact: whether magnified pixels stay squares.
    """
    first, second = (html.escape(name.split(",")[0], quote=True) for name in names)
    width, height = size
    return f"""<div class="beside" style="max-width: {stage}px">
<div class="stage slider{" exact" if exact else ""}">
<img class="under" alt="{first}" src="{left}" width="{width}" height="{height}">
<img class="over" alt="{second}" src="{right}" width="{width}" height="{height}">
<div class="edge"></div>
</div>
<input type="range" class="cut" min="0" max="100" value="50" step="0.1" aria-label="Share of {first} that is shown">
<div class="names"><span>left: {html.escape(names[0])}</span><span>right: {html.escape(names[1])}</span></div>
</div>"""


def stage_width(width: int) -> int:
    """The width to show an image at: the smallest multiple of its own that is at least 600 pixels."""
    return width * -(-600 // width)


def data_url(file: bytes) -> str:
    """A JPEG or PNG file as a data URL."""
    kind = "jpeg" if file.startswith(_JPEG) else "png"
    return f"data:image/{kind};base64,{base64.b64encode(file).decode('ascii')}"


def png(image: Image.Image | np.ndarray) -> bytes:
    """An image as a PNG file. An array is H x W x 3 uint8."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, "PNG")
    return buffer.getvalue()
