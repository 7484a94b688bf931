"""Metadata of image files: what is read, what is kept, and what has to change because the image is upright now."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pyvips

from srcli.io.cicp import CICP, is_hdr
from srcli.io.color import PROFILE
from srcli.io.exif import exif_of_tiff, fields_of_exif
from srcli.io.files import open_binary
from srcli.io.image import Metadata
from srcli.io.png_chunks import TEXTS, texts_of_png

_STRUCTURE = {"width", "height", "bands", "format", "coding", "interpretation", "xoffset", "yoffset", "filename", "vips-loader"}
_NOT_KEPT = {
    *("bits-per-sample", "palette", "jpeg-thumbnail-data", "jpeg-multiscan", "jpeg-chroma-subsample", "orientation"),
    *("background", "page-height", "n-pages", "loop", "delay", "gif-delay", "gif-loop", "interlaced", "gainmap-data"),
}
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)[2-8]")


def read_metadata(source: Path | bytes, image: pyvips.Image) -> Metadata:
    """The metadata of an image file that is turned upright when it is read."""
    fields = _fields(image)
    if (image.xres, image.yres) == (1, 1):  # libvips' value for unknown, which would be written as 25.4 dpi
        fields.pop("xres", None)
        fields.pop("yres", None)
    if "exif-data" not in fields and image.get_typeof("vips-loader") and str(image.get("vips-loader")).startswith("tiff"):
        with open_binary(source) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            block = exif_of_tiff(file)
            if block:
                resolution = {name: fields[name] for name in ("xres", "yres", "resolution-unit") if name in fields}
                fields |= {name: (kind, value) for name, kind, value in fields_of_exif(block)} | resolution
    if "xmp-data" in fields:
        kind, xmp = fields["xmp-data"]
        fields["xmp-data"] = kind, _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)
    with open_binary(source) as file:
        texts = texts_of_png(file)
    if texts:
        fields[TEXTS] = pyvips.GValue.blob_type, texts
    return tuple((name, kind, value) for name, (kind, value) in fields.items())


def with_color(metadata: Metadata, image: pyvips.Image, code_points: bytes | None) -> Metadata:
    """The metadata with the color profile of `image`, and with these code points."""
    fields = [field for field in metadata if field[0] != PROFILE]
    if image.get_typeof(PROFILE):
        fields.append((PROFILE, pyvips.GValue.blob_type, image.get(PROFILE)))
    if code_points:
        fields.append((CICP, pyvips.GValue.blob_type, code_points))
    return tuple(fields)


def profile_for_networks(metadata: Metadata) -> bytes | None:
    """The color profile whose tone curve matters. None for HDR: PQ and HLG are about as even to the eye as sRGB."""
    fields = {name: value for name, _, value in metadata}
    return None if is_hdr(fields.get(CICP)) else fields.get(PROFILE)


def _fields(image: pyvips.Image) -> dict[str, tuple[int, Any]]:
    """Type and value of the fields to keep, by libvips' name."""
    fields: dict[str, tuple[int, Any]] = {}
    try:
        names = image.get_fields()
    except UnicodeDecodeError:  # pyvips supports UTF-8 names only; others occur in damaged files
        return fields
    for name in names:
        if name in _STRUCTURE | _NOT_KEPT or name.startswith(("exif-ifd1", "heif", "png-comment")):
            continue
        try:
            value = image.get(name)
        except UnicodeDecodeError:
            continue
        fields[name] = image.get_typeof(name), value
    return fields
