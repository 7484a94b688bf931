"""Files and pictures: the only room that knows formats, colour modes, bit depths, profiles, orientation and metadata.

Reading and writing is libvips' work, through pyvips: it keeps 16 bits, profiles and metadata in all formats, it reads and
writes row by row, and its wheel brings every codec along.
"""

from __future__ import annotations

from srcli.images.colour import from_srgb_tone, to_srgb_tone, tone_curve
from srcli.images.finding import EXTENSIONS, find_pictures
from srcli.images.reading import PictureFile, is_whole, open_picture, read_exact_srgb, read_picture, read_srgb
from srcli.images.rows import Metadata, Picture, RetonedRows, Rows
from srcli.images.views import Before, Piece, View
from srcli.images.writing import check_target, write_picture, write_rows

__all__ = [
    "EXTENSIONS",
    "Before",
    "Metadata",
    "Picture",
    "PictureFile",
    "Piece",
    "RetonedRows",
    "Rows",
    "View",
    "check_target",
    "find_pictures",
    "from_srgb_tone",
    "is_whole",
    "open_picture",
    "read_exact_srgb",
    "read_picture",
    "read_srgb",
    "to_srgb_tone",
    "tone_curve",
    "write_picture",
    "write_rows",
]
