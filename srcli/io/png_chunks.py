"""Chunks of PNG files that libvips does not handle: texts, which it takes for UTF-8, and descriptions of color."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

TEXTS = "png-texts"
"""The name of the text chunks among an image's metadata."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXT_KINDS = (b"tEXt", b"zTXt", b"iTXt")
_COLOR_KINDS = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM")
_XMP = b"XML:com.adobe.xmp\0"  # libvips handles it
_MOST = 2**24  # bytes, more than any real text
_COPY = 2**20  # bytes that are moved at a time


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def texts_of_png(file: IO[bytes]) -> bytes:
    """The text chunks of a PNG, concatenated. Empty for other files. Damaged chunks are left out."""
    texts = b""
    for kind, body in chunks(file, _TEXT_KINDS):
        if not body.startswith(_XMP) and len(texts) + len(body) <= _MOST:
            texts += png_chunk(kind, body)
    return texts


def names_of_texts(texts: bytes) -> list[str]:
    """The keywords of text chunks."""
    names, place = [], 0
    while place < len(texts):
        length = int.from_bytes(texts[place : place + 4], "big")
        names.append(texts[place + 8 : place + 8 + length].split(b"\0")[0].decode("latin-1"))
        place += length + 12
    return names


def xmp_of_png(file: IO[bytes]) -> bytes:
    """The XMP of a PNG, also if it follows the pixels, where libvips does not look. Empty for other files."""
    for _, body in chunks(file, (b"iTXt",)):
        if body.startswith(_XMP):
            compressed, rest = body[len(_XMP)], body[len(_XMP) + 2 :]
            text = rest.split(b"\0", 2)[-1]  # after a language and a translated keyword
            try:
                return zlib.decompressobj().decompress(text, _MOST) if compressed else text
            except zlib.error:
                return b""
    return b""


def xmp_chunk(xmp: bytes) -> bytes:
    """XMP as other programs expect it: uncompressed. libvips compresses it."""
    return png_chunk(b"iTXt", _XMP + bytes(4) + xmp)


def resolution_of_png(file: IO[bytes]) -> dict[str, float]:
    """Dots per mm, by libvips' name. Empty if there is none, or for other files."""
    for _, body in chunks(file, (b"pHYs",), until=b"IDAT"):
        if len(body) == 9 and body[8] == 1:
            across, down = struct.unpack(">LL", body[:8])
            return {"xres": across / 1000, "yres": down / 1000} if across and down else {}
    return {}


def color_of_png(file: IO[bytes]) -> dict[bytes, bytes]:
    """The chunks of a PNG that describe its color, by their name."""
    return dict(chunks(file, _COLOR_KINDS, until=b"IDAT"))


def add_to_png(path: Path, added: bytes) -> None:
    """Insert chunks into a PNG that libvips wrote, after its header. Some programs ignore metadata after the pixels."""
    with path.open("r+b") as file:
        insert_bytes(file, len(SIGNATURE) + 25, added)


def insert_bytes(file: IO[bytes], place: int, data: bytes) -> None:
    """Insert bytes into a file that is open for reading and writing, by moving the rest block by block from its end."""
    if not data:
        return
    end = file.seek(0, 2)
    while end > place:
        start = max(place, end - _COPY)
        file.seek(start)
        block = file.read(end - start)
        file.seek(start + len(data))
        file.write(block)
        end = start
    file.seek(place)
    file.write(data)


def chunks(
    file: IO[bytes], kinds: tuple[bytes, ...] = (), *, until: bytes = b"IEND", intact: bool = True
) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of the chunks of these kinds or of all, damaged ones only if `intact` is false. None for other files."""
    file.seek(0)
    if file.read(len(SIGNATURE)) != SIGNATURE:
        return
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">L4s", head)
        if kind == until:
            return
        if (kinds and kind not in kinds) or (length > _MOST and intact):
            file.seek(length + 4, 1)
            continue
        body, checksum = file.read(length), file.read(4)
        if not intact or checksum == struct.pack(">L", zlib.crc32(body, zlib.crc32(kind))):
            yield kind, body
