"""File formats: their names, what they can hold, and how they are encoded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from srcli.errors import ConfigError, SrcliError, did_you_mean


@dataclass(frozen=True)
class Format:
    """A file format.

    extensions: of file names, the usual one first. loader: how the name of its loader starts. written: whether srcli writes it,
    not only reads it. longest: pixels per side. depth: most bits per channel. alpha: transparency. hdr: whether it can describe
    PQ and HLG. frames: `animation` or `pages` if it holds several. keeps: the kinds of metadata that it holds, named as in
    `srcli.io.metadata`.
    """

    name: str
    extensions: tuple[str, ...]
    loader: str
    written: bool = True
    longest: int = 10_000_000  # libvips' own limit
    depth: int = 8
    alpha: bool = True
    hdr: bool = False
    frames: str = ""
    keeps: frozenset[str] = frozenset()


PNG = Format(
    "PNG",
    (".png", ".apng"),
    "png",
    depth=16,
    hdr=True,
    frames="animation",
    keeps=frozenset({"color profile", "EXIF", "XMP", "resolution", "texts"}),
)
JPEG = Format(
    "JPEG",
    (".jpg", ".jpeg", ".jpe", ".jfif"),
    "jpeg",
    longest=65_535,
    alpha=False,
    keeps=frozenset({"color profile", "EXIF", "XMP", "IPTC", "resolution", "gain map"}),
)
WEBP = Format("WebP", (".webp",), "webp", longest=16_383, frames="animation", keeps=frozenset({"color profile", "EXIF", "XMP"}))
TIFF = Format(
    "TIFF",
    (".tif", ".tiff"),
    "tiff",
    depth=16,
    frames="pages",
    keeps=frozenset({"color profile", "EXIF", "XMP", "IPTC", "resolution", "description"}),
)
AVIF = Format(
    "AVIF",
    (".avif",),
    "heif",
    longest=16_384,
    depth=12,
    hdr=True,
    frames="animation",
    keeps=frozenset({"color profile", "EXIF", "XMP"}),
)
AVIF_SEQUENCE = replace(AVIF, depth=8, hdr=False)
"""What Pillow writes; libvips writes single images only."""
JXL = Format("JPEG XL", (".jxl",), "jxl", depth=16, keeps=frozenset({"EXIF", "XMP"}))
GIF = Format("GIF", (".gif",), "gif", longest=65_535, frames="animation")
BMP = Format("BMP", (".bmp", ".dib"), "bmp", written=False)
PNM = Format("PNM", (".ppm", ".pgm", ".pbm", ".pnm"), "ppm", written=False)
HEIC = Format("HEIC", (".heic", ".heif", ".hif"), "heic", written=False)

FORMATS = (PNG, JPEG, WEBP, TIFF, AVIF, JXL, GIF, BMP, PNM, HEIC)
WRITTEN = tuple(format_ for format_ in FORMATS if format_.written)

EXTENSIONS = tuple(extension for format_ in FORMATS for extension in format_.extensions)
"""Of the files that can be read."""

WRITTEN_EXTENSIONS = tuple(extension for format_ in WRITTEN for extension in format_.extensions)


@dataclass(frozen=True)
class SaveOptions:
    """How files are encoded. None is the default of each format.

    output_quality: 1..100 for JPEG, WebP, JPEG XL (95 by default) and AVIF (90). lossless: for WebP, AVIF and JPEG XL.
    png_compression: 0..9, from fast to small. bit_depth: bits per channel, 8, 10, 12 or 16; None for those of the image.
    mark: note in the XMP that the file is a result, so that folders leave it out.
    """

    output_quality: int | None = None
    lossless: bool = False
    png_compression: int | None = None
    bit_depth: int | None = None
    mark: bool = False

    def __post_init__(self) -> None:
        if self.output_quality is not None and not 1 <= self.output_quality <= 100:
            raise ConfigError(f"The quality is {self.output_quality}; `output_quality` must be in 1..100.")
        if self.png_compression is not None and not 0 <= self.png_compression <= 9:
            raise ConfigError(f"The compression is {self.png_compression}; `png_compression` must be in 0..9.")
        if self.bit_depth not in (None, 8, 10, 12, 16):
            raise ConfigError(f"The bit depth is {self.bit_depth}; `bit_depth` must be 8, 10, 12 or 16.")
        if self.lossless and self.output_quality is not None:
            raise ConfigError("`lossless` and `output_quality` exclude each other. Choose one.")

    def check(self, path: Path, *, animated: bool = False) -> None:
        """Raise SrcliError if the format of this file cannot be encoded this way."""
        format_ = format_of(path, animated=animated)
        if self.lossless and format_ is JPEG:
            raise SrcliError(f"{path} cannot be lossless, as it is a JPEG. Use another `format`, or no `lossless`.")
        possible = {PNG: (8, 16), TIFF: (8, 16), JXL: (8, 16), AVIF: (8, 10, 12)}.get(format_, (8,))
        if self.bit_depth and self.bit_depth not in possible:
            depths = " or ".join(map(str, possible))
            raise SrcliError(f"{path} cannot have {self.bit_depth} bits per channel; {format_.name} has {depths}.")

    def dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """The type of pixels to encode, for those of an image."""
        return dtype if self.bit_depth is None else np.dtype(np.uint8 if self.bit_depth == 8 else np.uint16)


def format_of(path: Path, *, animated: bool = False) -> Format:
    """The format of a file that is to be written, by its name. Raises ConfigError if it cannot be written.

    animated: with the limits of its animations.
    """
    found = _by_extension(path.suffix)
    if found is None or not found.written:
        raise ConfigError(f"Cannot write {path}: supported extensions are {', '.join(WRITTEN_EXTENSIONS)}.")
    return AVIF_SEQUENCE if animated and found is AVIF else found


def result_extension(extension: str) -> str:
    """The extension of the result of a file: the same, or .png if its format is not written."""
    found = _by_extension(extension)
    return extension if found and found.written else ".png"


def extension_of_loader(loader: str) -> str:
    """The extension for a result of a file that libvips read with this loader."""
    return next((format_.extensions[0] for format_ in WRITTEN if loader.startswith(format_.loader)), ".png")


def extension_named(word: str) -> str:
    """The extension that a word such as `jpeg`, `JPG` or `.tif` names. Raises ConfigError if its format is not written."""
    extension = f".{word.lower().lstrip('.')}"
    found = _by_extension(extension)
    if found is None or not found.written:
        known = [format_.extensions[0].lstrip(".") for format_ in WRITTEN]
        raise ConfigError(f"There is no format {word!r}. {did_you_mean(word, known)}")
    return found.extensions[0]


def _by_extension(extension: str) -> Format | None:
    return next((format_ for format_ in FORMATS if extension.lower() in format_.extensions), None)
