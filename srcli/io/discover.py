"""Which files are taken for images."""

from __future__ import annotations

from pathlib import Path

from srcli.errors import SrcliError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".avif")
"""What can be read and written."""


def find_images(folder: Path, *, below: bool = True) -> list[Path]:
    """Every file in the folder, and `below` it, whose name ends as an image's does; sorted, hidden ones left out.

    Raises SrcliError where there is none.
    """
    if not folder.is_dir():
        raise SrcliError(f"{folder} is no folder. Give a folder of images.")
    paths = sorted(
        path
        for path in (folder.rglob("*") if below else folder.iterdir())
        if path.suffix.lower() in EXTENSIONS
        and not path.is_dir()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not paths:
        raise SrcliError(f"{folder} holds no image. Give a folder with files that end in {', '.join(EXTENSIONS)}.")
    return paths
