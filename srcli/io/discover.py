"""Which files are images, by their names."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from srcli.errors import SrcliError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".avif")
"""File name extensions of the formats that can be read and written."""


def find_images(folder: Path) -> list[Path]:
    """Every image file in the folder and its subfolders, sorted. Hidden files are left out.

    Raises SrcliError if there is none.
    """
    if not folder.is_dir():
        raise SrcliError(f"{folder} is not a folder. Give a folder of images.")
    paths = sorted(path for path in image_like(folder, recursive=True) if not path.is_dir())
    if not paths:
        raise SrcliError(f"{folder} contains no image. Give a folder with files that end in {', '.join(EXTENSIONS)}.")
    return paths


def image_like(folder: Path, *, recursive: bool) -> Iterator[Path]:
    """Entries of the folder with the name of an image, hidden ones left out.

    A folder may have such a name, too. It is included if it cannot hold images of its own: empty, or not searched.
    """
    for path in folder.rglob("*") if recursive else folder.iterdir():
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in EXTENSIONS and not hidden and not (recursive and path.is_dir() and any(path.iterdir())):
            yield path


def glob_root(pattern: Path) -> Path:
    """The part of a glob pattern before its first wildcard."""
    return Path(*takewhile(lambda part: not glob.has_magic(part), pattern.parts))
