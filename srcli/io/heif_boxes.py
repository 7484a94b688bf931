"""What libvips neither reports nor writes of AVIF and HEIC files: the color description (nclx), further images, and large EXIF.

The boxes are those of ISO/IEC 23008-12: `iinf` has the types of items, `iloc` says where they are, `pitm` which is the main
one, `ipma` which properties of `ipco` each has, and `iref` what they are to each other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from srcli.io.png_chunks import insert_bytes

_MOST = 2**26  # bytes of a `meta` box, more than any real one
_DAMAGE = (struct.error, IndexError, KeyError, ValueError, OverflowError, OSError)
"""What reading a damaged file raises. libvips reports it."""
_AUXILIARY = {b":auxid:1": "", b":alpha": "", b":auxid:2": "depth map", b":depth": "depth map", b"gainmap": "gain map"}
"""Of another image, by the end of the name of its type (alpha is read along with the main image)."""
_IMAGES = (b"av01", b"hvc1", b"avc1", b"jpeg", b"j2k1", b"unci", b"grid", b"iovl", b"iden")
_TRANSFORMS = (b"irot", b"imir", b"clap")
_TONE_MAPPED = b"tmap"  # the main image and its gain map together


def nclx_of(file: IO[bytes]) -> tuple[int, int] | None:
    """Color primaries and transfer characteristics (ITU-T H.273) of the main item.

    None if the file has no nclx description, or an ICC profile, which takes precedence, or is of another format.
    """
    file.seek(0)
    if file.read(12)[4:8] != b"ftyp":
        return None
    try:
        meta = _Meta(file)
        colors = [meta.data[start : start + 11] for kind, start, _ in meta.main_properties() if kind == b"colr"]
    except _DAMAGE:
        return None
    if any(color[:4] in (b"prof", b"rICC") for color in colors):
        return None
    return next((struct.unpack(">HH", color[4:8]) for color in colors if color[:4] == b"nclx"), None)


def transforms_of(file: IO[bytes]) -> list[tuple[bytes, int]]:
    """How the main item is turned (irot), mirrored (imir) or cropped (clap), in order, each with a number of two bits."""
    try:
        meta = _Meta(file)
        found = [(kind, meta.data[start] & 3) for kind, start, _ in meta.main_properties() if kind in _TRANSFORMS]
    except _DAMAGE:
        return []
    return found


def further_images(file: IO[bytes]) -> set[str]:
    """What a file has besides its main image, in words. No thumbnails and parts of the main image. Empty for other formats."""
    file.seek(0)
    if file.read(12)[4:8] != b"ftyp":
        return set()
    try:
        meta = _Meta(file)
        main, items, references = meta.main_item(), meta.items(), meta.references()
        found = {_auxiliary_kind(meta, source) for kind, source, _ in references if kind == b"auxl"}
    except _DAMAGE:
        return set()
    parts = {main}
    for kind, source, targets in references:
        parts |= {source} if kind in (b"auxl", b"thmb") else targets if kind == b"dimg" else set()
    more = sum(kind in _IMAGES and not hidden and item not in parts for item, (kind, hidden) in items.items())
    found |= {"gain map"} if any(kind == _TONE_MAPPED for kind, _ in items.values()) else set()
    found |= {f"{more} further image{'' if more == 1 else 's'}"} if more else set()
    return found - {""}


def _auxiliary_kind(meta: _Meta, item: int) -> str:
    for kind, start, end in meta.properties(item):
        if kind == b"auxC":
            name = meta.data[start + 4 : end].split(b"\0")[0]
            return next((what for ending, what in _AUXILIARY.items() if name.endswith(ending)), "auxiliary image")
    return "auxiliary image"


def add_nclx(path: Path, primaries: int, transfer: int) -> None:
    """Describe the color of an AVIF that libvips wrote without profile, whose matrix is that of BT.601 in full range."""
    box = struct.pack(">I4s4sHHHB", 19, b"colr", b"nclx", primaries, transfer, 6, 0x80)
    with path.open("r+b") as file:
        meta = _Meta(file)
        data = bytearray(meta.data)
        count = len(list(boxes(meta.data, meta.start["ipco"], meta.end["ipco"])))
        place, wide = meta.associations()[meta.main_item()][:2]
        added = struct.pack(">H", count + 1) if wide else bytes([count + 1])
        delta = len(box) + len(added)
        for offset, size in meta.offsets():
            moved = int.from_bytes(data[offset : offset + size], "big") + delta
            data[offset : offset + size] = moved.to_bytes(size, "big")
        # from the end of the file to its beginning, so that earlier places stay right
        data[place] += 1
        inserts = [(place + 1, added, ("ipma", "iprp")), (meta.end["ipco"], box, ("ipco", "iprp"))]
        for at, part, parents in sorted(inserts, key=lambda insert: -insert[0]):
            data[at:at] = part
            for parent in parents:
                head = meta.start[parent] - 8
                data[head : head + 4] = struct.pack(">I", struct.unpack(">I", data[head : head + 4])[0] + len(part))
        head = meta.at - 8
        file.seek(head)
        size = struct.unpack(">I", file.read(4))[0] + delta
        insert_bytes(file, meta.at, bytes(delta))
        file.seek(head)
        file.write(struct.pack(">I", size))
        file.seek(meta.at)
        file.write(data)


def replace_exif(path: Path, exif: bytes) -> None:
    """Replace the EXIF of an AVIF that libvips wrote by a TIFF structure of any size, which is added at the end of the file."""
    with path.open("r+b") as file:
        meta = _Meta(file)
        (item,) = (item for item, (kind, _) in meta.items().items() if kind == b"Exif")
        ((base, ((offset, length),)),) = ((base, extents) for found, base, extents in meta.locations() if found == item)
        content = bytes(4) + exif  # after an offset, which is 0
        place = file.seek(0, 2) + 8
        file.write(struct.pack(">I4s", 8 + len(content), b"mdat") + content)
        for (at, size), value in ((base, 0), (offset, place), (length, len(content))):
            file.seek(meta.at + at)
            file.write(value.to_bytes(size, "big"))


def read_box(file: IO[bytes], name: bytes) -> tuple[int, bytes]:
    """Where the content of a box of the file starts, and that content. Raises ValueError or struct.error if there is none."""
    place = 0
    while True:
        file.seek(place)
        size, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:
            head, size = 16, struct.unpack(">Q", file.read(8))[0]
        if kind == name:
            return place + head, file.read(max(0, min(size - head, _MOST)))
        if size < head:
            raise ValueError("a box is smaller than its head")
        place += size


def boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of the content of each box between two places."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        if size < 8:
            return
        yield kind, start + 8, start + size
        start += size


_Number = tuple[int, int]
"""Place and size."""
_Location = tuple[int, _Number, list[tuple[_Number, _Number]]]
"""An item, its base, and the offset and length of each of its extents."""


class _Meta:
    """The `meta` box. data: its content. start, end: where the content of the boxes in it starts and ends, by name."""

    def __init__(self, file: IO[bytes]) -> None:
        self.at, self.data = read_box(file, b"meta")
        self.start: dict[str, int] = {}
        self.end: dict[str, int] = {}
        self._index(4, len(self.data))

    def _index(self, start: int, end: int) -> None:
        for kind, begin, stop in boxes(self.data, start, end):
            name = kind.decode("latin-1")
            self.start.setdefault(name, begin)
            self.end.setdefault(name, stop)
            if name == "iprp":
                self._index(begin, stop)

    def main_item(self) -> int:
        start = self.start["pitm"]
        return int(self._number(start + 4, 2 if self.data[start] == 0 else 4))

    def items(self) -> dict[int, tuple[bytes, bool]]:
        """The type of each item, and whether it is hidden."""
        start = self.start["iinf"]
        begin = start + (6 if self.data[start] == 0 else 8)
        found = {}
        for _, entry, _ in boxes(self.data, begin, self.end["iinf"]):
            size = {2: 2, 3: 4}[self.data[entry]]
            kind = self.data[entry + 6 + size : entry + 10 + size]
            found[self._number(entry + 4, size)] = kind, bool(self.data[entry + 3] & 1)
        return found

    def references(self) -> list[tuple[bytes, int, set[int]]]:
        """Kind, item and the items that it refers to."""
        if "iref" not in self.start:
            return []
        start = self.start["iref"]
        size = 4 if self.data[start] else 2
        found = []
        for kind, begin, _ in boxes(self.data, start + 4, self.end["iref"]):
            first = begin + size + 2
            count = min(self._number(begin + size, 2), (self.end["iref"] - first) // size)
            targets = {self._number(first + size * number, size) for number in range(count)}
            found.append((kind, self._number(begin, size), targets))
        return found

    def main_properties(self) -> list[tuple[bytes, int, int]]:
        return self.properties(self.main_item())

    def properties(self, item: int) -> list[tuple[bytes, int, int]]:
        properties = list(boxes(self.data, self.start["ipco"], self.end["ipco"]))
        place, wide, count = self.associations()[item]
        step = 2 if wide else 1
        indices = [self._number(place + 1 + step * number, step) & (0x7FFF if wide else 0x7F) for number in range(count)]
        return [properties[index - 1] for index in indices if 0 < index <= len(properties)]

    def associations(self) -> dict[int, tuple[int, bool, int]]:
        """By item: the place of its number of properties, whether their indices have 15 bits, and that number."""
        start = self.start["ipma"]
        version, wide = self.data[start], bool(self.data[start + 3] & 1)
        place = start + 8
        found = {}
        for _ in range(self._number(start + 4, 4)):
            size = 2 if version == 0 else 4
            item = self._number(place, size)
            count = self.data[place + size]
            found[item] = place + size, wide, count
            place += size + 1 + count * (2 if wide else 1)
        return found

    def offsets(self) -> Iterator[tuple[int, int]]:
        """Place and size of each number that is an offset in the file."""
        for _, base, extents in self.locations():
            if base[1]:
                yield base
            else:
                yield from (offset for offset, _ in extents)

    def locations(self) -> Iterator[_Location]:
        """Of the items whose data are in the file, outside of this box."""
        start = self.start["iloc"]
        version = self.data[start]
        offset, length = self.data[start + 4] >> 4, self.data[start + 4] & 15
        base, index = self.data[start + 5] >> 4, self.data[start + 5] & 15 if version else 0
        wide = 4 if version == 2 else 2
        place = start + 6 + wide
        for _ in range(self._number(start + 6, wide)):
            item = self._number(place, wide)
            place += wide
            method = self._number(place, 2) & 15 if version else 0
            place += (2 if version else 0) + 2
            base_at = place
            place += base
            count = self._number(place, 2)
            place += 2 + index
            step = index + offset + length
            if method == 0:
                firsts = range(place, place + count * step, step or 1)
                yield item, (base_at, base), [((at, offset), (at + offset, length)) for at in firsts]
            place += count * step - index

    def _number(self, place: int, size: int) -> int:
        return int.from_bytes(self.data[place : place + size], "big")
