"""Metadata of image files: what is read, what is kept, and what has to change because the image is upright now."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pyvips

from srcli.io import xmp
from srcli.io.cicp import CICP, is_hdr
from srcli.io.color import PROFILE
from srcli.io.exif import exif_of_resolution, exif_of_tiff, fields_of_exif
from srcli.io.files import open_binary
from srcli.io.formats import Format
from srcli.io.gain_map import GAIN_MAP, read_gain_map
from srcli.io.heif_boxes import further_images
from srcli.io.image import Metadata
from srcli.io.jpeg_segments import APP1, other_images, read_segments
from srcli.io.png_chunks import TEXTS, names_of_texts, resolution_of_png, texts_of_png, xmp_of_png

_BLOB = pyvips.GValue.blob_type

_STRUCTURE = {"width", "height", "bands", "format", "coding", "interpretation", "xoffset", "yoffset", "filename", "vips-loader"}
_NOT_KEPT = {
    *("bits-per-sample", "palette", "jpeg-thumbnail-data", "jpeg-multiscan", "jpeg-chroma-subsample", "orientation"),
    *("background", "page-height", "n-pages", "loop", "delay", "gif-delay", "gif-loop", "interlaced", "vips-sequential"),
}
_KINDS = {
    PROFILE: "color profile",
    "xmp-data": "XMP",
    "iptc-data": "IPTC",
    "photoshop-data": "IPTC",
    TEXTS: "texts",
    "xres": "resolution",
    "yres": "resolution",
    "resolution-unit": "resolution",
    "image-description": "description",
    "exif-": "EXIF",
    "gainmap-": GAIN_MAP,
}
"""The kind of metadata by libvips' name of a field, or its start."""

BITS = "source-bits"
"""The name of the bits per channel of a file with more than 8, among an image's metadata."""

_PLAIN_DPI = (72, 96)  # what programs write for no resolution in particular


def read_metadata(source: Path | bytes, image: pyvips.Image) -> tuple[Metadata, list[str]]:
    """The metadata of an image file that is turned upright when it is read, and what of it is not read, in words."""
    fields = _fields(image)
    if (image.xres, image.yres) == (1, 1):  # libvips' value for unknown, which would be written as 25.4 dpi
        fields.pop("xres", None)
        fields.pop("yres", None)
    lost: list[str] = []
    if image.format == "ushort" and image.get_typeof("bits-per-sample"):
        fields[BITS] = pyvips.GValue.gint_type, image.get("bits-per-sample")
    with open_binary(source) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if "exif-data" not in fields and image.get_typeof("vips-loader") and str(image.get("vips-loader")).startswith("tiff"):
            block = exif_of_tiff(file)
            if block:
                resolution = {name: fields[name] for name in ("xres", "yres", "resolution-unit") if name in fields}
                fields |= {name: (kind, value) for name, kind, value in fields_of_exif(block)} | resolution
        texts = texts_of_png(file)
        if texts:
            fields[TEXTS] = _BLOB, texts
        packet = xmp_of_png(file)
        for axis, dots in resolution_of_png(file).items():  # libvips prefers that of EXIF
            fields[axis] = pyvips.GValue.gdouble_type, dots
        segments, _ = read_segments(file)
        others = other_images(file, segments) | further_images(file)
    if segments:
        packet, lost = xmp.of_jpeg([content for marker, content in segments if marker == APP1])
    if packet:
        fields["xmp-data"] = _BLOB, packet
    if "xmp-data" in fields:
        packet, claimed = xmp.without_other_images(xmp.upright(fields["xmp-data"][1]))
        fields["xmp-data"] = _BLOB, packet
        others |= claimed
    if GAIN_MAP in others:
        gain_map = read_gain_map(source, int(image.get("orientation")) if image.get_typeof("orientation") else 1)
        fields |= gain_map
        others -= {GAIN_MAP} if gain_map else set()
    return tuple((name, kind, value) for name, (kind, value) in fields.items()), lost + sorted(others)


def kept_by(metadata: Metadata, format_: Format) -> tuple[Metadata, list[str]]:
    """The metadata that a format can hold, and what it cannot, in words."""
    kept, lost = [], dict[str, None]()
    known = {name: value for name, _, value in metadata}
    keeps_exif, has_exif = "EXIF" in format_.keeps, "exif-data" in known
    for field in metadata:
        kind = next((kind for start, kind in _KINDS.items() if field[0].startswith(start)), None)
        if kind is None or kind in format_.keeps:
            kept.append(field)
        elif kind == "texts":
            lost[f"texts ({', '.join(names_of_texts(field[2]))})"] = None
        elif kind == "description":
            lost |= {} if keeps_exif and has_exif else {kind: None}  # EXIF has it, too
        elif kind != "resolution":
            lost[kind] = None
        elif field[0] == "xres" and round(field[2] * 25.4) not in _PLAIN_DPI:
            if not keeps_exif:
                lost["resolution"] = None
            elif not has_exif:
                block = exif_of_resolution(field[2] * 25.4, (known.get("yres") or field[2]) * 25.4)
                kept.append(("exif-data", _BLOB, block))
    return tuple(kept), list(lost)


def with_mark(metadata: Metadata) -> Metadata:
    """The metadata with the mark of a result in its XMP."""
    packet = next((value for name, _, value in metadata if name == "xmp-data"), None)
    return (*(field for field in metadata if field[0] != "xmp-data"), ("xmp-data", _BLOB, xmp.marked(packet)))


def with_color(metadata: Metadata, image: pyvips.Image, code_points: bytes | None) -> Metadata:
    """The metadata with the color profile of `image`, and with these code points."""
    fields = [field for field in metadata if field[0] != PROFILE]
    if image.get_typeof(PROFILE):
        fields.append((PROFILE, _BLOB, image.get(PROFILE)))
    if code_points:
        fields.append((CICP, _BLOB, code_points))
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
