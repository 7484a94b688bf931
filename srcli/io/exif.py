"""EXIF: what changes in a block, and the tags in TIFF files.

libexif, which libvips uses, leaves out tags that it does not know, and entries above 64 KB. In TIFF, the tags are in the file's
own directories, which libvips neither reads nor writes. Pillow's tag directories parse and pack them; pixels are not touched.
(tifffile and piexif can do only one of the two; the wrappers of exiv2 are licensed under the GPL.)
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import pyvips
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

_ASCII, _SHORT, _LONG, _BYTES = 2, 3, 4, 7
_DESCRIPTIVE = (269, 270, 271, 272, 285, 305, 306, 315, 316, 18246, 18249, 33432, *range(40091, 40096))
"""Tags of a TIFF's first directory that describe the image rather than its storage: maker, model, date, artist, ..."""
_ORIENTATION, _EXIF_POINTER = 0x0112, 0x8769
_THUMBNAIL = (0x0201, 0x0202)  # offset and size of the JPEG
_POINTERS = (_EXIF_POINTER, 0x8825)  # to the EXIF and GPS directories
EXIF_START = b"Exif\0\0"
"""What EXIF in JPEG begins with, before a TIFF structure."""
_IPTC = 33723
_INTEROPERABILITY = 0xA005  # a pointer inside EXIF, to a directory that does not apply to a changed image


def exif_of_tiff(file: IO[bytes]) -> bytes:
    """The EXIF data of a TIFF's first directory as a JPEG EXIF block, little-endian. Empty if it has none.

    Damaged directories are ignored, so that the image can still be read.
    """
    try:
        main, subs = read_directories(file)
    except Exception:  # Pillow raises errors of many types for damaged files
        return b""
    if not subs and not any(tag in main for tag in _DESCRIPTIVE):
        return b""
    body, place = _packed(main, subs, b"II*\0\0\0\0\0", 8)
    return EXIF_START + b"II*\0" + struct.pack("<L", place) + body


def updated_exif(block: bytes, width: int, height: int) -> bytes:
    """The TIFF structure of a JPEG EXIF block of any size, with this image size, upright and without thumbnail.

    Everything else stays where it is, as notes of camera makers refer to places in the block. A damaged block is updated as far
    as it can be read.
    """
    data = bytearray(block.removeprefix(EXIF_START))
    order = ">" if data.startswith(b"MM") else "<"
    with suppress(struct.error):
        (start,) = struct.unpack_from(order + "L", data, 4)
        main, end = _entries(data, order, start)
        (following,) = struct.unpack_from(order + "L", data, end)
        struct.pack_into(order + "L", data, end, 0)
        _set_numbers(data, order, main, {_ORIENTATION: 1, 0x0100: width, 0x0101: height})
        if _EXIF_POINTER in main:
            sub, _ = _entries(data, order, _value(data, order, main[_EXIF_POINTER]))
            _set_numbers(data, order, sub, {0xA002: width, 0xA003: height})
        if following:
            thumbnail, _ = _entries(data, order, following)
            if all(tag in thumbnail for tag in _THUMBNAIL):
                first, size = (_value(data, order, thumbnail[tag]) for tag in _THUMBNAIL)
                data[first : first + size] = bytes(len(data[first : first + size]))
    return bytes(data)


def exif_of_resolution(across: float, down: float) -> bytes:
    """An EXIF block with nothing but the resolution, in dots per inch."""
    exif = Image.Exif()
    exif[0x011A], exif[0x011B], exif[0x0128] = across, down, 2
    return exif.tobytes()


def _entries(data: bytes | bytearray, order: str, start: int) -> tuple[dict[int, int], int]:
    """Where the entry of each tag of a directory is, and where the entries end. Raises struct.error for a damaged one."""
    (count,) = struct.unpack_from(order + "H", data, start)
    places = range(start + 2, start + 2 + 12 * count, 12)
    return {struct.unpack_from(order + "H", data, place)[0]: place for place in places}, start + 2 + 12 * count


def _value(data: bytes | bytearray, order: str, place: int) -> int:
    """The number in an entry."""
    short = struct.unpack_from(order + "H", data, place + 2)[0] == _SHORT
    return int(struct.unpack_from(order + ("H" if short else "L"), data, place + 8)[0])


def _set_numbers(data: bytearray, order: str, entries: dict[int, int], values: dict[int, int]) -> None:
    for tag, value in values.items():
        if tag in entries:
            kind, form = (_SHORT, "Hxx") if value < 2**16 else (_LONG, "L")
            struct.pack_into(order + "HL" + form, data, entries[tag] + 2, kind, 1, value)


def fields_of_exif(block: bytes) -> list[tuple[str, int, Any]]:
    """The block and its tags, under libvips' names, as libvips gives them for an image with the block.

    Empty if libvips finds the block damaged.
    """
    carrier = io.BytesIO()
    Image.new("L", (1, 1)).save(carrier, "PNG", exif=block)
    try:
        image = pyvips.Image.new_from_buffer(carrier.getvalue(), "")
    except pyvips.Error:
        return []
    return [(name, image.get_typeof(name), image.get(name)) for name in image.get_fields() if name.startswith("exif-")]


def add_to_tiff(path: Path, exif: bytes, iptc: bytes) -> None:
    """Append tags to a TIFF or BigTIFF and point its first directory to them. Other bytes are unchanged.

    exif: a TIFF structure, or empty. iptc: of which libvips would write a quarter.
    """
    with path.open("r+b") as file:
        header = file.read(16)
        order, big = {b"II": "<", b"MM": ">"}[header[:2]], header[2] == 43 or header[3] == 43
        count, entry, offset, where = ("Q", 20, "Q", 8) if big else ("H", 12, "L", 4)
        header = header if big else header[:8]

        def number(kind: str) -> int:
            return int(struct.unpack(order + kind, file.read(struct.calcsize(order + kind)))[0])

        file.seek(where)
        file.seek(number(offset))
        entries = [file.read(entry) for _ in range(number(count))]
        following = file.read(struct.calcsize(order + offset))
        present = {struct.unpack(order + "H", raw[:2])[0] for raw in entries}

        end = file.seek(0, io.SEEK_END)
        end += end % 2
        main, subs = read_directories(io.BytesIO(exif)) if exif else (ImageFileDirectory_v2(), {})
        body, place = _packed(main, subs, header, end, leave=present, iptc=iptc)
        inner = io.BytesIO(body[place - end :])
        added = struct.unpack(order + count, inner.read(struct.calcsize(order + count)))[0]
        entries += [inner.read(entry) for _ in range(added)]
        entries.sort(key=lambda raw: int(struct.unpack(order + "H", raw[:2])[0]))
        directory = end + len(body) + len(body) % 2
        file.seek(end)
        file.write(body.ljust(directory - end, b"\0"))
        file.write(struct.pack(order + count, len(entries)) + b"".join(entries) + following)
        file.seek(where)
        file.write(struct.pack(order + offset, directory))


def read_directories(file: IO[bytes]) -> tuple[ImageFileDirectory_v2, dict[int, ImageFileDirectory_v2]]:
    """The first directory of a TIFF structure, and the EXIF and GPS directories."""
    file.seek(0)
    header = file.read(16)
    header = header if header[2] == 43 or header[3] == 43 else header[:8]

    def directory(place: int, group: int | None = None) -> ImageFileDirectory_v2:
        found = ImageFileDirectory_v2(header, group=group)
        file.seek(place)
        found.load(file)
        return found

    main = directory(ImageFileDirectory_v2(header).next or 8)
    return main, {tag: directory(int(main[tag]), tag) for tag in _POINTERS if tag in main}


def _packed(
    main: ImageFileDirectory_v2,
    subs: dict[int, ImageFileDirectory_v2],
    header: bytes,
    start: int,
    leave: set[int] | None = None,
    iptc: bytes = b"",
) -> tuple[bytes, int]:
    """The bytes at `start` of all descriptive tags except those to `leave`, and the offset of their directory."""
    body = b""
    first = ImageFileDirectory_v2(header)
    if iptc:
        first.tagtype[_IPTC] = _BYTES
        first[_IPTC] = iptc
    _copy(main, first, lambda tag: tag in _DESCRIPTIVE and tag not in (leave or ()))
    for pointer, source in subs.items():
        sub = ImageFileDirectory_v2(header, group=pointer)
        _copy(source, sub, lambda tag: tag != _INTEROPERABILITY)
        first.tagtype[pointer] = _LONG
        first[pointer] = start + len(body)
        body += sub.tobytes(start + len(body))
    return body + first.tobytes(start + len(body)), start + len(body)


def _copy(source: ImageFileDirectory_v2, target: ImageFileDirectory_v2, wanted: Callable[[int], bool]) -> None:
    for tag in source:
        if wanted(tag):
            value = source[tag]
            target.tagtype[tag] = source.tagtype[tag]
            # keep the bytes of a text: Pillow would write question marks for non-ASCII characters
            target[tag] = value.encode("latin-1") if source.tagtype[tag] == _ASCII and isinstance(value, str) else value
