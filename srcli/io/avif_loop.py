"""How often an AVIF sequence plays, which Pillow neither reads nor writes.

As in libavif, an edit list that repeats (ISO/IEC 14496-12, section 8.6.6) plays until the duration of its track is over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from srcli.io.heif_boxes import boxes, read_box

_DURATION = {b"mvhd": (16, 24), b"tkhd": (20, 28), b"elst": (8, 8)}
"""Where the duration of a movie, a track or its first edit is in the content of its box, by the version of the box."""
_FORM = (">I", ">Q")
_FOREVER = (2**32 - 1, 2**64 - 1)
_REPEATS = 1  # the flag of an edit list


def loop_of_avif(file: IO[bytes]) -> int:
    """How often a sequence plays; 0 is forever, also if the file does not say."""
    try:
        _, data = read_box(file, b"moov")
        found = dict(reversed(list(_timed_boxes(data, 0, len(data)))))  # of the first track
        edits, track = found[b"elst"], found[b"tkhd"]
        if not data[edits + 3] & _REPEATS:
            return 1
        once, whole = _duration(data, b"elst", edits), _duration(data, b"tkhd", track)
        return 0 if whole in _FOREVER or not once else -(-whole // once)
    except (struct.error, IndexError, KeyError, ValueError, OverflowError, OSError):
        return 0  # it has no edit list, or is damaged, which its decoder reports


def set_loop(path: Path, loop: int) -> None:
    """Let a sequence that libavif wrote, which plays forever, play `loop` times."""
    with path.open("r+b") as file:
        at, content = read_box(file, b"moov")
        data = bytearray(content)
        found = list(_timed_boxes(content, 0, len(content)))
        once = next(_duration(content, kind, start) for kind, start in found if kind == b"elst")
        for kind, start in found:
            version = data[start]
            if kind == b"elst":
                data[start + 3] = _REPEATS if loop > 1 else 0
            else:
                struct.pack_into(
                    _FORM[version], data, start + _DURATION[kind][version], min(loop * once, _FOREVER[version] - 1)
                )
        file.seek(at)
        file.write(data)


def _timed_boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int]]:
    """Name and start of the content of the boxes with the duration of a movie, its tracks and their edits."""
    for kind, begin, stop in boxes(data, start, end):
        if kind in (b"trak", b"edts"):
            yield from _timed_boxes(data, begin, min(stop, end))
        elif kind in _DURATION:
            yield kind, begin


def _duration(data: bytes, kind: bytes, start: int) -> int:
    version = data[start]
    return int(struct.unpack_from(_FORM[version], data, start + _DURATION[kind][version])[0])
