"""Which files in a folder are photographs to train on, and which are left out without being read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from srcli.errors import counted
from srcli.io.discover import find_images, without_results
from srcli.training.settings import is_settings_of_run

HIDDEN, RESULT, RUN = "hidden file", "result of srcli upscale", "file of srcli train"


def find_photos(folder: Path) -> tuple[list[Path], dict[str, int]]:
    """The images in the folder and its subfolders, and how many were left out, by kind.

    Left out are hidden images, results of `srcli upscale` (marked, or next to their source), and files in run folders.
    Raises SrcliError if there is no image, or if a folder cannot be read.
    """
    hidden: list[Path] = []
    found = find_images(folder, on_hidden=hidden.append)
    runs = {parent for parent in {path.parent for path in found} if _is_in_run(parent, folder)}
    outside = [path for path in found if path.parent not in runs]
    photos = without_results(outside)
    counts = {HIDDEN: len(hidden), RESULT: len(outside) - len(photos), RUN: len(found) - len(outside)}
    return photos, {kind: number for kind, number in counts.items() if number}


def ignored(counts: Mapping[str, int]) -> str:
    """What was left out, such as `1 hidden file, 2 results of srcli upscale`; empty if nothing was."""
    texts = []
    for kind, number in counts.items():
        noun, of, rest = kind.partition(" of ")
        texts.append(f"{counted(number, noun)}{of}{rest}")
    return ", ".join(texts)


def _is_in_run(folder: Path, root: Path) -> bool:
    """Whether it is the folder of a run or lies in one, up to and without `root`."""
    inside = [folder, *folder.parents][: len(folder.relative_to(root).parts)]
    return any(is_settings_of_run(parent / "settings.yaml") for parent in inside)
