"""Sets up libvips for files that nobody has checked."""

from __future__ import annotations

from typing import Any

import pyvips

pyvips.cache_set_max(0)  # each image is read once, so a cache would only take memory
pyvips.block_untrusted_set(True)  # no SVG, PDF or MATLAB, whatever the file's name: their libraries are not made for attacks


def with_fields_of(image: pyvips.Image, other: pyvips.Image) -> pyvips.Image:
    """The image with the fields that it lacks, and the resolution, of another."""
    image = image.copy(xres=other.xres, yres=other.yres)
    for field in set(other.get_fields()) - set(image.get_fields()):
        image.set_type(other.get_typeof(field), field, other.get(field))
    return image


def _to_string(text: Any) -> str:
    """Text of libvips, which may quote bytes of a file that are not UTF-8."""
    if text == pyvips.ffi.NULL:
        return "NULL"
    content: bytes = pyvips.ffi.string(text)
    return content.decode(errors="backslashreplace")


pyvips.error._to_string = _to_string  # raised UnicodeDecodeError instead of an error that says what is wrong
pyvips._to_string = _to_string  # of log messages, where it printed a traceback
