"""Which images become which files: sizes, jobs and the chain of models for a factor."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from srcli.errors import ConfigError, SrcliError
from srcli.io.discover import EXTENSIONS

if TYPE_CHECKING:
    from srcli.inference.backend import Model

MOST_PASSES = 6
STDIO = Path("-")
"""stdin as a source, stdout as a target."""


@dataclass(frozen=True)
class Size:
    """How large a result shall be: `scale` times the image, or `width` by `height`, one of which may be open.

    fit: the largest size with the image's proportions that fits into width by height.
    """

    scale: float | None = None
    width: int | None = None
    height: int | None = None
    fit: bool = False

    def of(self, width: int, height: int) -> tuple[int, int]:
        """The size in pixels for an image of this width and height."""
        if self.scale is not None:
            scale = self.scale
        elif self.fit or self.width is None or self.height is None:
            scale = min(wish / is_now for wish, is_now in ((self.width, width), (self.height, height)) if wish)
        else:
            return self.width, self.height
        # the side that was asked for comes out exactly, whatever floating point makes of the quotient
        return max(1, round(width * scale)), max(1, round(height * scale))

    @property
    def name(self) -> str:
        """What tells the result's name from the image's."""
        if self.scale is not None:
            return f"x{self.scale:g}"
        if self.width is None or self.height is None:
            return f"{self.width}w" if self.width else f"{self.height}h"
        return f"{self.width}x{self.height}"


def parse_size(word: str, *, fit: bool = False) -> Size:
    """1920x1080, 1920x or x1080. Raises ConfigError."""
    match = re.fullmatch(r"(\d*)[xX×](\d*)", word.strip())
    width, height = (int(part) if part else None for part in match.groups()) if match else (None, None)
    if not (width or height) or width == 0 or height == 0:
        raise ConfigError(f"{word!r} is no size. Say it as in 1920x1080, 1920x or x1080.")
    return Size(width=width, height=height, fit=fit)


@dataclass(frozen=True)
class Job:
    """One image to upscale and where the result goes; `error` where it cannot be."""

    source: Path
    target: Path
    error: str | None = None


def plan(inputs: Sequence[str], output: str | None, size: Size, *, ending: str | None, recursive: bool) -> list[Job]:
    """A job for each image that the inputs name: files, folders, globs, and - for stdin.

    output: a file for one image, - for stdout, a folder that mirrors the tree below each input folder, or None for beside
    the image. ending: the results', such as .png; None for the images' own. Nothing is read.
    Raises ConfigError where the words make no sense together.
    """
    to_stdout = output == "-" or (output is None and list(inputs) == ["-"])
    folder = Path(output) if output is not None and not to_stdout else None
    to_file = folder is not None and folder.suffix != "" and not folder.is_dir()
    if folder is not None and to_file and folder.suffix.lower() not in EXTENSIONS:
        raise ConfigError(
            f"srcli cannot write {folder}; let it end in {', '.join(EXTENSIONS)}, or make the folder if it is to be one."
        )
    found: dict[Path, Path] = {}  # source: where it goes below the output
    jobs: list[Job] = []
    for given in dict.fromkeys(inputs):
        try:
            found |= _sources(given, size, folder if not to_file else None, ending=ending, recursive=recursive)
        except SrcliError as error:
            jobs.append(Job(Path(given), Path(given), str(error)))
    if (to_file or to_stdout) and len(found) > 1:
        raise ConfigError(f"{output} is one file and there are {len(found)} images. Give a folder to -o.")
    taken: dict[Path, Path] = {}
    for source, below in found.items():
        if to_stdout:
            jobs.append(Job(source, STDIO))
            continue
        if source == STDIO and not to_file:
            raise ConfigError("An image from stdin has no name. Give one with -o, or -o - for stdout.")
        beside = _result(source, size, ending)
        target = folder if to_file and folder else folder / below.parent / beside.name if folder else beside
        wrong = None
        if target.suffix.lower() not in EXTENSIONS and source.exists():
            wrong = (
                f"{source}: srcli does not write {target.suffix or 'files without ending'}. Give a name with -o, or --format."
            )
        elif target in taken:
            wrong = f"{source} and {taken[target]} would both become {target}. Upscale them into different folders."
        elif target in found and target != source:
            wrong = f"{source} would become {target}, which is to be upscaled too. Upscale them into another folder."
        else:
            taken[target] = source
        jobs.append(Job(source, target, wrong))
    return jobs


def _sources(given: str, size: Size, output: Path | None, *, ending: str | None, recursive: bool) -> dict[Path, Path]:
    """The images that one word of the command line names, each with its place below it."""
    path = Path(given)
    if path.is_dir():
        paths = sorted(_image_like_files(path, recursive=recursive))
        results = {_result(source, size, ending) for source in paths}  # of an earlier call, which are no input
        inside = output is not None and output.resolve().is_relative_to(path.resolve()) and output.resolve() != path.resolve()
        fresh = [
            source
            for source in paths
            if source not in results and not (inside and output and source.resolve().is_relative_to(output.resolve()))
        ]
        if not fresh:
            raise SrcliError(
                f"{path} holds no image. Give a folder with files that end in {', '.join(EXTENSIONS)}"
                f"{'' if recursive else ', or -r for the folders below it'}."
            )
        return {source: source.relative_to(path) for source in fresh}
    if given != "-" and not path.exists() and glob.has_magic(given):
        matches = [Path(match) for match in sorted(glob.glob(given, recursive=True))]  # noqa: PTH207, Path.glob takes no absolute pattern
        images = [match for match in matches if match.suffix.lower() in EXTENSIONS]
        if not images:
            raise SrcliError(f"{given} matches no image. Files must end in {', '.join(EXTENSIONS)}.")
        fixed = Path(*_before_magic(path.parts))
        return {match: match.relative_to(fixed) for match in images}
    return {path: Path(path.name)}


def _before_magic(parts: Iterable[str]) -> Iterator[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _image_like_files(folder: Path, *, recursive: bool) -> Iterator[Path]:
    """By their names, hidden ones left out. A folder with such a name is one, too, so that it is reported."""
    for path in folder.rglob("*") if recursive else folder.iterdir():
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in EXTENSIONS and not hidden and not (recursive and path.is_dir() and any(path.iterdir())):
            yield path


def _result(source: Path, size: Size, ending: str | None) -> Path:
    return source.with_name(f"{source.stem}_{size.name}{ending or source.suffix}")


def model_chain(models: Sequence[Model], factor: float, before: Sequence[Model] = ()) -> list[Model]:
    """The models to apply one after another: the smallest product of scales that reaches `factor`, in the fewest passes.

    before: those for all passes but the last, if not the same. Smaller scales come first, as they leave the later ones less to
    do. Raises SrcliError where it takes more than MOST_PASSES.
    """
    last = {model.scale: model for model in models if model.scale > 1}
    first = {model.scale: model for model in before or models if model.scale > 1}
    chains = [
        (*start, end)
        for length in range(MOST_PASSES)
        for start in combinations_with_replacement(sorted(first), length)
        for end in last
        if prod(start) * end >= factor
    ]
    if not chains:
        raise SrcliError(f"{factor:g} times larger is more than {MOST_PASSES} passes of the model reach. Ask for less.")
    *start, end = min(chains, key=lambda chain: (prod(chain), len(chain), chain))
    return [*(first[scale] for scale in start), last[end]]
