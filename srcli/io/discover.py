"""Which files are images, by their names."""

from __future__ import annotations

import glob
import mmap
import os
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile
from pathlib import Path

from srcli.errors import SrcliError
from srcli.io.formats import EXTENSIONS
from srcli.io.xmp import RESULT_MARK

_RESULT = re.compile(r"(?P<source>.+)_(x\d+(\.\d+)?|\d+[wh]|\d+x\d+)")
"""The stem of a result of `srcli upscale`, such as photo_x4 or photo_1920w."""


def find_images(folder: Path, on_hidden: Callable[[Path], None] = lambda _: None) -> list[Path]:
    """Every image file in the folder and its subfolders, sorted. Hidden files are left out.

    on_hidden: called for each hidden file with the name of an image.
    Raises SrcliError if there is none, or if a folder cannot be read.
    """
    if not folder.is_dir():
        raise SrcliError(f"{folder} is not a folder. Give a folder of images.")

    def unreadable(path: Path, error: OSError) -> None:
        raise SrcliError(f"Cannot read the folder {path}: {error.strerror}.")

    found = image_like(folder, recursive=True, on_error=unreadable, on_hidden=on_hidden)
    paths = sorted(path for path in found if not path.is_dir())
    if not paths:
        raise SrcliError(f"{folder} contains no image. Give a folder with files that end in {', '.join(EXTENSIONS)}.")
    return paths


def image_like(
    folder: Path,
    *,
    recursive: bool,
    on_error: Callable[[Path, OSError], None],
    on_other: Callable[[Path], None] = lambda _: None,
    on_hidden: Callable[[Path], None] = lambda _: None,
) -> Iterator[Path]:
    """Entries of the folder with the name of an image, while it is read. Symbolic links to folders are not followed.

    Hidden ones are left out. A folder may have such a name, too. It is included if it cannot hold images of its own: empty, or
    not searched. on_error: called for each folder that cannot be read. on_other: called for each file with another name.
    on_hidden: called for each hidden file with the name of an image.
    """
    for entry in _entries(folder, on_error):
        path = folder / entry.name
        if entry.name.startswith("."):
            if path.suffix.lower() in EXTENSIONS and entry.is_file():
                on_hidden(path)
            continue
        searched = recursive and entry.is_dir(follow_symlinks=False)
        if path.suffix.lower() in EXTENSIONS and not (searched and _has_entries(path)):
            yield path
        elif not entry.is_dir():
            on_other(path)
        if searched:
            yield from image_like(path, recursive=True, on_error=on_error, on_other=on_other, on_hidden=on_hidden)


def _entries(folder: Path, on_error: Callable[[Path, OSError], None]) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        on_error(folder, error)


def source_stem(stem: str) -> str | None:
    """`photo` for `photo_x4`, the stem of a result of `srcli upscale`; None if it is none."""
    match = _RESULT.fullmatch(stem)
    return match["source"] if match else None


def without_results(paths: Iterable[Path]) -> list[Path]:
    """The images without results of `srcli upscale`.

    Results are files with the name of one, such as photo_x4.png, that carry its mark or lie next to their source, photo.jpg.
    """
    images = list(paths)
    sources = {(path.parent, path.stem) for path in images}
    return [
        path
        for path in images
        if (stem := source_stem(path.stem)) is None or not ((path.parent, stem) in sources or _is_marked(path))
    ]


def _is_marked(path: Path) -> bool:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(RESULT_MARK) >= 0
    except (OSError, ValueError):  # it is reported when it is read
        return False


def _has_entries(folder: Path) -> bool:
    try:
        return any(os.scandir(folder))
    except OSError:  # reported when it is searched
        return True


def glob_root(pattern: Path) -> Path:
    """The part of a glob pattern before its first wildcard."""
    return Path(*takewhile(lambda part: not glob.has_magic(part), pattern.parts))
