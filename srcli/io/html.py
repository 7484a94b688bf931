"""HTML pages from templates: self-contained, light and dark, for screens of any width and for print."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from srcli.version import __version__

_JPEG = b"\xff\xd8"


def render(template: str, **values: Any) -> str:
    """A complete page from a template, with every value escaped. template: its path in the package."""
    return _TEMPLATES.get_template(template).render(values)


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


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1]),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals.update(version=__version__, stage_width=stage_width, data_url=data_url)
