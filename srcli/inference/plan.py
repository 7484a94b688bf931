"""Planning a batch: which images become which files, at what size, by which chain of models. Reads no image."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from srcli.errors import ConfigError, SrcliError
from srcli.io.discover import EXTENSIONS, glob_root, image_like

if TYPE_CHECKING:
    from srcli.inference.backend import Model

MAX_PASSES = 6
STDIO = Path("-")
"""stdin as a source, stdout as a target."""


@dataclass(frozen=True)
class Size:
    """The size of a result: `scale` times the image, or `width` by `height`, one of which may be None.

    fit: the largest size with the image's aspect ratio that fits into width by height.
    """

    scale: float | None = None
    width: int | None = None
    height: int | None = None
    fit: bool = False

    def of(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the result for an image of this size, in pixels."""
        if self.scale is not None:
            scale = self.scale
        elif self.fit or self.width is None or self.height is None:
            scale = min(target / side for target, side in ((self.width, width), (self.height, height)) if target)
        else:
            return self.width, self.height
        # rounding keeps a requested side exact in spite of floating-point errors
        return max(1, round(width * scale)), max(1, round(height * scale))

    @property
    def name(self) -> str:
        """The suffix of the result's file name."""
        if self.scale is not None:
            return f"x{self.scale:g}"
        if self.width is None or self.height is None:
            return f"{self.width}w" if self.width else f"{self.height}h"
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Job:
    """An image to upscale and the file for the result. error: why that is not possible, if it is not."""

    source: Path
    target: Path
    error: str | None = None


def plan(inputs: Sequence[str], output: str | None, size: Size, *, extension: str | None, recursive: bool) -> list[Job]:
    """A job for each image that the inputs name: files, folders, globs, and - for stdin.

    output: a file for one image, - for stdout, a folder that mirrors the tree below each input folder, or None for results next
    to their images. extension: of the results, such as .png; None keeps that of each image.
    Raises ConfigError if the arguments contradict each other.
    """
    to_stdout = output == "-" or (output is None and list(inputs) == ["-"])
    folder = Path(output) if output is not None and not to_stdout else None
    to_file = folder is not None and folder.suffix != "" and not folder.is_dir()
    if folder is not None and to_file and folder.suffix.lower() not in EXTENSIONS:
        raise ConfigError(
            f"Cannot write {folder}: supported extensions are {', '.join(EXTENSIONS)}. If it should be a folder, create it."
        )
    found: dict[Path, Path] = {}  # source: its path below the output folder
    jobs: list[Job] = []
    for given in dict.fromkeys(inputs):
        try:
            found |= _sources(given, size, folder if not to_file else None, extension=extension, recursive=recursive)
        except SrcliError as error:
            jobs.append(Job(Path(given), Path(given), str(error)))
    if (to_file or to_stdout) and len(found) > 1:
        raise ConfigError(f"{output} is one file, but there are {len(found)} images. Set `output` to a folder.")
    taken: dict[Path, Path] = {}
    for source, below in found.items():
        if to_stdout:
            jobs.append(Job(source, STDIO))
            continue
        if source == STDIO and not to_file:
            raise ConfigError("An image from stdin has no name. Set `output` to a file, or to - for stdout.")
        default = _result(source, size, extension)
        target = folder if to_file and folder else folder / below.parent / default.name if folder else default
        problem = None
        if target.suffix.lower() not in EXTENSIONS and source.exists():
            problem = (
                f"{source}: cannot write {target.suffix or 'files without an extension'}. "
                "Set `output` to a file name, or set `format`."
            )
        elif target in taken:
            problem = f"{source} and {taken[target]} would both become {target}. Write them to different folders."
        elif target in found and target != source:
            problem = f"{source} would become {target}, which is an input, too. Write the results to another folder."
        else:
            taken[target] = source
        jobs.append(Job(source, target, problem))
    return jobs


def _sources(given: str, size: Size, output: Path | None, *, extension: str | None, recursive: bool) -> dict[Path, Path]:
    """The images that one input names, each with its path below the input."""
    path = Path(given)
    if path.is_dir():
        paths = sorted(image_like(path, recursive=recursive))
        results = {_result(source, size, extension) for source in paths}  # of an earlier run
        inside = output is not None and output.resolve().is_relative_to(path.resolve()) and output.resolve() != path.resolve()
        sources = [
            source
            for source in paths
            if source not in results and not (inside and output and source.resolve().is_relative_to(output.resolve()))
        ]
        if not sources:
            raise SrcliError(
                f"{path} contains no image. Give a folder with files that end in {', '.join(EXTENSIONS)}"
                f"{'' if recursive else ', or use `recursive` for its subfolders'}."
            )
        return {source: source.relative_to(path) for source in sources}
    if given != "-" and not path.exists() and glob.has_magic(given):
        matches = [Path(match) for match in sorted(glob.glob(given, recursive=True))]  # noqa: PTH207, Path.glob rejects absolute patterns
        images = [match for match in matches if match.suffix.lower() in EXTENSIONS]
        if not images:
            raise SrcliError(f"{given} matches no image. Files must end in {', '.join(EXTENSIONS)}.")
        return {match: match.relative_to(glob_root(path)) for match in images}
    return {path: Path(path.name)}


def _result(source: Path, size: Size, extension: str | None) -> Path:
    return source.with_name(f"{source.stem}_{size.name}{extension or source.suffix}")


def model_chain(models: Sequence[Model], factor: float, first_models: Sequence[Model] = ()) -> list[Model]:
    """The models to apply one after another: the smallest product of scales that reaches `factor`, in the fewest passes.

    first_models: those for all passes but the last, if they differ. Smaller scales come first, as that costs less.
    Raises SrcliError if it takes more than MAX_PASSES.
    """
    last = {model.scale: model for model in models if model.scale > 1}
    first = {model.scale: model for model in first_models or models if model.scale > 1}
    chains = [
        (*start, end)
        for length in range(MAX_PASSES)
        for start in combinations_with_replacement(sorted(first), length)
        for end in last
        if prod(start) * end >= factor
    ]
    if not chains:
        raise SrcliError(f"A factor of {factor:g} takes more than {MAX_PASSES} passes of the model. Use a smaller size.")
    *start, end = min(chains, key=lambda chain: (prod(chain), len(chain), chain))
    return [*(first[scale] for scale in start), last[end]]
