"""Encoding an image with its metadata into a file, by libvips or, for JPEG XL, by libjxl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pyvips
from PIL import Image as PillowImage

from srcli.io import iptc, xmp
from srcli.io.animation import Animation, fields_of_animation, frames_of, write_avif_sequence
from srcli.io.apng import write_apng
from srcli.io.cicp import CICP, is_hdr
from srcli.io.exif import EXIF_START, add_to_tiff, updated_exif
from srcli.io.formats import AVIF, AVIF_SEQUENCE, GIF, JPEG, JXL, PNG, TIFF, WEBP, Format, SaveOptions
from srcli.io.heif_boxes import add_nclx, replace_exif
from srcli.io.image import Metadata
from srcli.io.jpeg_segments import add_segments
from srcli.io.jxl import with_metadata
from srcli.io.metadata import BITS
from srcli.io.png_chunks import TEXTS, add_to_png, png_chunk, xmp_chunk
from srcli.io.webp_chunks import with_exif, write_webp_animation

_SAVE: dict[Format, dict[str, Any]] = {
    PNG: {"compression": 6},
    JPEG: {"Q": 95, "subsample_mode": "off"},
    WEBP: {"Q": 95, "smart_subsample": True},
    TIFF: {"compression": "deflate", "predictor": "horizontal"},
    GIF: {"keep_duplicate_frames": True},
    AVIF: {"Q": 90, "effort": 3, "compression": "av1", "subsample_mode": "off"},
}
_JXL_QUALITY = 95
_CLASSIC_TIFF = 3_500_000_000  # bytes of pixels that certainly fit into 32-bit offsets
_DEFAULT_DPI = 72  # what programs assume for files without a resolution; libvips would write 25.4
_IN_MEMORY = 2**24  # pixels that may be in memory at once
_LARGEST_EXIF = 65_533 - len(EXIF_START)  # bytes that fit into a segment of JPEG
_NO_EXIF = PillowImage.Exif().tobytes()
"""In the place of EXIF that replaces it in a file that libvips wrote."""
_DOTS = ("xres", "yres")
_EXIF, _XMP, _IPTC, _GAIN_MAP = "exif-data", "xmp-data", "iptc-data", "gainmap-data"


def encode(
    image: pyvips.Image,
    path: Path,
    format_: Format,
    metadata: Metadata,
    options: SaveOptions,
    animation: Animation | None = None,
) -> list[str]:
    """Write an image in colors that the format holds, with metadata that it holds. Returns what is lost nevertheless.

    animation: of an image with its frames one below the other.
    """
    fields: dict[str, Any] = {name: value for name, _, value in metadata}
    height = image.height // animation.frames if animation else image.height
    if _XMP in fields:
        fields[_XMP] = xmp.resized(fields[_XMP], image.width, height)
    if _IPTC in fields:
        fields[_IPTC] = (iptc.for_tiff if format_ is TIFF else iptc.for_jpeg)(fields[_IPTC])
    exif = updated_exif(fields[_EXIF], image.width, height) if _EXIF in fields else b""
    if format_ is JXL:
        return _encode_jxl(image, path, exif, fields.get(_XMP), options)
    lost = ["colors (reduced to 256)"] if format_ is GIF else []
    reduced = format_ is JPEG and len(exif) > _LARGEST_EXIF
    if reduced:
        lost.append("the largest entries of EXIF (more than 64 KB)")
    dots = {axis: fields.get(axis, _DEFAULT_DPI / 25.4) for axis in _DOTS}  # per mm
    own = {TEXTS, CICP, BITS, *_DOTS, *(name for name in fields if name.startswith("exif-") and not reduced)}
    own |= {_XMP} if format_ in (PNG, JPEG) else {_IPTC} if format_ is TIFF else set()

    def dress(image: pyvips.Image) -> pyvips.Image:
        """The image with the metadata that libvips writes."""
        image = image.copy(**dots)
        for name, kind, _ in metadata:
            if name not in own:
                image.set_type(kind, name, fields[name])
        if reduced:
            image.set_type(pyvips.GValue.gint_type, "orientation", 1)  # the pixels are upright now
        elif exif and format_ in (WEBP, AVIF):
            image.set_type(pyvips.GValue.blob_type, _EXIF, _NO_EXIF)
        return image

    keep_exif = reduced or (bool(exif) and format_ in (WEBP, AVIF))
    if animation and format_ is AVIF_SEQUENCE:
        quality = 100 if options.lossless else options.output_quality or _SAVE[AVIF]["Q"]
        write_avif_sequence(path, image, height, animation, exif, fields, quality)
    elif animation and format_ in (PNG, WEBP):
        save, gray = _options(image, format_, options, keep_exif=keep_exif), image.bands < 3

        def to_still(pixels: np.ndarray, first: bool) -> bytes:
            frame = pyvips.Image.new_from_array(np.ascontiguousarray(pixels))
            deep = pixels.dtype == np.uint16
            frame = frame.copy(interpretation=("grey16" if deep else "b-w") if gray else "rgb16" if deep else "srgb")
            data = bytes((dress(frame) if first else frame).write_to_buffer(format_.extensions[0], **save))
            return with_exif(data, exif) if first and exif and format_ is WEBP else data

        (write_apng if format_ is PNG else write_webp_animation)(path, frames_of(image, height), animation, to_still)
    else:
        image = dress(image)
        for kind, name, value in fields_of_animation(animation, height) if animation else ():
            image.set_type(kind, name, value)
        _save(image, path, _options(image, format_, options, keep_exif=keep_exif), gain_map=_GAIN_MAP in fields)

    if format_ is PNG:
        added = png_chunk(b"cICP", fields[CICP]) if CICP in fields else b""
        added += png_chunk(b"eXIf", exif) if exif else b""
        added += xmp_chunk(fields[_XMP]) if _XMP in fields else b""
        add_to_png(path, added + fields.get(TEXTS, b""))
    elif format_ is JPEG:
        block = EXIF_START + exif if exif and not reduced else b""
        inch = dots["xres"] * 25.4, dots["yres"] * 25.4
        add_segments(path, dots=inch, exif=block, xmp=xmp.for_jpeg(fields[_XMP]) if _XMP in fields else [])
    elif format_ is WEBP and exif and not animation:
        path.write_bytes(with_exif(path.read_bytes(), exif))
    elif format_ is TIFF and (exif or fields.get(_IPTC)):
        add_to_tiff(path, exif, fields.get(_IPTC, b""))
    elif format_ is AVIF:
        if is_hdr(fields.get(CICP)):
            add_nclx(path, *fields[CICP][:2])
        if exif:
            replace_exif(path, exif)
    return lost


def _options(image: pyvips.Image, format_: Format, options: SaveOptions, *, keep_exif: bool) -> dict[str, Any]:
    """Options of libvips' encoder."""
    save = dict(_SAVE[format_])
    if "Q" in save and options.output_quality is not None:
        save["Q"] = options.output_quality
    if options.lossless and format_ in (WEBP, AVIF):
        save = {"lossless": True, "effort": save.get("effort", 4)}
    if format_ is PNG and options.png_compression is not None:
        save["compression"] = options.png_compression
    deep = image.format == "ushort"
    if format_ is AVIF:
        save["bitdepth"] = (options.bit_depth or 12) if deep else 8
    if format_ is JPEG:  # saves a few percent on disk, but needs the whole image in memory
        save["optimize_coding"] = image.width * image.height <= _IN_MEMORY
    if format_ is TIFF:
        save["bigtiff"] = image.width * image.height * image.bands * (2 if deep else 1) > _CLASSIC_TIFF
    if not keep_exif:
        save["keep"] = "icc|xmp|iptc|other"  # otherwise libvips adds an EXIF block to JPEG
    return save


def _save(image: pyvips.Image, path: Path, save: dict[str, Any], *, gain_map: bool) -> None:
    if gain_map:
        path.write_bytes(image.uhdrsave_buffer(Q=save["Q"], **({"keep": "icc|gainmap"} if "keep" in save else {})))
        return
    try:
        str(path).encode()
    except UnicodeEncodeError:  # pyvips supports only names in UTF-8
        with path.open("rb+") as file:
            image.write_to_target(pyvips.Target.new_to_descriptor(file.fileno()), path.suffix, **save)
    else:
        image.write_to_file(str(path), **save)


def _encode_jxl(image: pyvips.Image, path: Path, exif: bytes, packet: bytes | None, options: SaveOptions) -> list[str]:
    pixels = image.numpy()
    how: dict[str, Any] = {"lossless": True} if options.lossless else {"level": options.output_quality or _JXL_QUALITY}
    if pixels.dtype == np.uint16:  # imagecodecs declares 16 bits to be linear
        steps = np.arange(65_536) / 65_535
        light = np.where(steps <= 0.04045, steps / 12.92, ((steps + 0.055) / 1.055) ** 2.4)
        color = slice(0, 1 if image.bands < 3 else 3)
        pixels = pixels.reshape(*pixels.shape[:2], -1).copy()
        pixels[..., color] = np.rint(light * 65_535).astype(np.uint16)[pixels[..., color]]
        pixels = pixels.squeeze(axis=2) if image.bands == 1 else pixels
    data = bytes(imagecodecs.jpegxl_encode(pixels, usecontainer=True, **how))
    path.write_bytes(with_metadata(data, exif=exif, xmp=packet))
    return []
