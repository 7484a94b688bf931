"""Which damage of a file matters, and which rows it leaves."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import pyvips

from srcli.errors import SrcliError
from srcli.io.files import open_binary
from srcli.io.jpeg_segments import EOI, has_end
from srcli.io.load import load, load_image, orientation, reason
from srcli.io.png_chunks import chunks

_HARMLESS = re.compile(
    r"Invalid SOS parameters|unknown JFIF revision|Unknown Adobe color transform|extraneous bytes before marker 0xd9",
    re.IGNORECASE,
)
"""Warnings of libjpeg about a header that does not follow the standard but is understood, and about bytes after the pixels."""
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type


def is_harmless(warning: str) -> bool:
    """Whether a warning of libjpeg does not concern the pixels."""
    return _HARMLESS.search(warning) is not None


def with_end(source: Path | bytes, name: str, max_pixels: int | None) -> bytes | None:
    """A JPEG that lacks nothing but its end marker, with it. None for other files.

    Raises SrcliError for more than `max_pixels` pixels.
    """
    with open_binary(source) as file:
        if has_end(file):
            return None
        file.seek(0)
        whole = file.read() + EOI
    try:
        load_image(whole, name, None, max_pixels, "warning").image.avg()
    except pyvips.Error:
        return None
    return whole


def truncated(source: Path | bytes, name: str, frame: int | None, error: pyvips.Error) -> SrcliError | None:
    """The error for a file that ends early and could be read with `allow_truncated`. None for other damage."""
    try:
        pyvips.Region.new(load(source, fail_on="none", **_page(frame))).fetch(0, 0, 1, 1)
        return SrcliError(
            f"{name} is damaged or ends early ({reason(error, name)}): {missing_rows(source, frame)}. "
            "Get it again, or use `allow_truncated` to upscale what is there."
        )
    except pyvips.Error:
        return None


def missing_rows(source: Path | bytes, frame: int | None) -> str:
    """Which rows of a file that ends early are missing, in words."""
    image = load(source, fail_on="none", **_page(frame))
    intact, height = _intact_rows(source, frame), image.height
    if not intact:
        return f"none of its {height} rows is complete"
    turned = ", counted before the image is turned upright" if orientation(image) > 1 else ""
    return f"rows {intact + 1} to {height} are missing{turned}"


def _intact_rows(source: Path | bytes, frame: int | None) -> int:
    with open_binary(source) as file:
        header = next((body for kind, body in chunks(file, (b"IHDR",))), None)
        if header:
            return _intact_png_rows(source, header)
    image = load(source, fail_on="error", access="sequential", **_page(frame))
    region = pyvips.Region.new(image)
    for row in range(image.height):
        try:
            region.fetch(0, row, image.width, 1)
        except pyvips.Error:
            return row
    return int(image.height)


def _intact_png_rows(source: Path | bytes, header: bytes) -> int:
    """libpng gives no row of a file that ends early."""
    width, (depth, kind) = int.from_bytes(header[:4], "big"), header[8:10]
    if header[12]:  # interlaced: the file has all rows coarsely
        return 0
    unpacker, size = zlib.decompressobj(), 0
    with open_binary(source) as file:
        for _, body in chunks(file, (b"IDAT",), intact=False):
            while body:
                try:
                    size += len(unpacker.decompress(body, 2**20))
                except zlib.error:
                    body = b""
                else:
                    body = unpacker.unconsumed_tail
    return size // (1 + (width * depth * _PNG_CHANNELS[kind] + 7) // 8)


def _page(frame: int | None) -> dict[str, int]:
    return {"page": frame - 1} if frame and frame > 1 else {}
