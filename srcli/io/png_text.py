"""PNG's texts, which go from file to file as they stand: libvips takes all for UTF-8, and writes that as if it were Latin-1."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import IO

TEXTS = "png-texts"
"""The name under which the texts are among an image's metadata."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KINDS = (b"tEXt", b"zTXt", b"iTXt")
_XMP = b"XML:com.adobe.xmp\0"  # which libvips looks after
_MOST = 2**24  # bytes; nobody says more about an image
_END = b"\0\0\0\0IEND\xaeB`\x82"


def texts_of_png(file: IO[bytes]) -> bytes:
    """The chunks of text of a PNG, whole and one after another; empty for other files. Damaged ones are left out."""
    if file.read(len(_SIGNATURE)) != _SIGNATURE:
        return b""
    texts = b""
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">L4s", head)
        if kind not in _KINDS or length > _MOST:
            file.seek(length + 4, 1)
            continue
        body, checksum = file.read(length), file.read(4)
        sound = checksum == struct.pack(">L", zlib.crc32(body, zlib.crc32(kind)))
        if sound and not body.startswith(_XMP) and len(texts) + length <= _MOST:
            texts += head + body + checksum
    return texts


def add_texts_to_png(path: Path, texts: bytes) -> None:
    """Put chunks of text before the end of a PNG that libvips wrote."""
    with path.open("r+b") as file:
        file.seek(-len(_END), 2)
        file.write(texts + _END)
