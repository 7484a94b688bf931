"""Planning a batch: which images become which files, at what size, by which chain of models."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import prod
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING

from srcli.errors import ConfigError, SrcliError, counted, did_you_mean
from srcli.io.discover import glob_root, image_like, without_results
from srcli.io.formats import EXTENSIONS, WRITTEN_EXTENSIONS, result_extension
from srcli.io.read import open_image

if TYPE_CHECKING:
    from srcli.inference.backend import Model

MAX_PASSES = 6
DEFAULT_NAME = "{stem}{suffix}.{ext}"
MAX_KINDS = 5
"""Extensions that are named of the files left out."""
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
    """An image to upscale and the file for the result.

    error: why that is not possible, if it is not. may_exist: an earlier try may have written the result, which is then skipped.
    """

    source: Path
    target: Path
    error: str | None = None
    may_exist: bool = False


def plan(
    inputs: Sequence[str],
    output: str | None,
    size: Size,
    *,
    extension: str | None = None,
    recursive: bool = False,
    name: str = DEFAULT_NAME,
    model: str = "",
    in_place: bool = False,
    include_results: bool = False,
    on_note: Callable[[str], None] = lambda _: None,
) -> list[Job]:
    """A job for each image that the inputs name: files, folders, globs, and - for stdin.

    output: a file for one image, - for stdout, a folder that mirrors the tree below each input folder, or None for results next
    to their images. extension: of the results, such as .png; None keeps that of each image, or takes .png for formats that are
    only read. name: a template for names of results (see `Names`). model: the model's name in it. in_place: allow a result
    to replace its own image. include_results: upscale the results of earlier runs that lie in a folder next to their images,
    too. on_note: called with sentences for the user.
    Raises ConfigError if the arguments contradict each other.
    """
    names = Names(name, size, extension, model)
    to_stdout = output == "-" or (output is None and list(inputs) == ["-"])
    folder = Path(output) if output is not None and not to_stdout else None
    to_file = folder is not None and folder.suffix != "" and not folder.is_dir()
    if folder is not None and to_file and folder.suffix.lower() not in WRITTEN_EXTENSIONS:
        raise ConfigError(
            f"Cannot write {folder}: supported extensions are {', '.join(WRITTEN_EXTENSIONS)}. "
            "If it should be a folder, create it."
        )
    found: dict[Path, Path] = {}  # source: its path below the output folder
    jobs: list[Job] = []
    for given in dict.fromkeys(inputs):
        try:
            sources, unreadable, results, others = _sources(given, None if to_file else folder, recursive, include_results)
            found |= sources
            jobs += unreadable
            if results:
                on_note(
                    f"Left out {counted(results, 'result')} of earlier runs in {given}; `include_results` upscales them, too."
                )
            if others:
                counts = Counter(path.suffix.lower() or "without an extension" for path in others)
                kinds = ", ".join(f"{count} {kind}" for kind, count in counts.most_common(MAX_KINDS))
                more = ", ..." if len(counts) > MAX_KINDS else ""
                on_note(
                    f"Left out {counted(len(others), 'file')} in {given} by extension: {kinds}{more}. "
                    "Give the name of a file to upscale it anyway."
                )
        except SrcliError as error:
            jobs.append(_failed(Path(given), str(error)))
        except OSError as error:
            jobs.append(_failed(Path(given), f"Cannot read {given}: {error.strerror}."))
    if (to_file or to_stdout) and len(found) > 1:
        raise ConfigError(f"{output} is one file, but there are {len(found)} images. Set `output` to a folder.")
    taken: dict[Path, Path] = {}
    inputs_by_identity = {its: source for source in found if (its := _identity(source))}
    for source, below in found.items():
        if to_stdout:
            jobs.append(Job(source, STDIO))
            continue
        if source == STDIO and not to_file:
            raise ConfigError("An image from stdin has no name. Set `output` to a file, or to - for stdout.")
        try:
            default = source if to_file else names.of(source)
        except SrcliError as error:
            jobs.append(_failed(source, str(error)))
            continue
        target = folder if to_file and folder else folder / below.parent / default.name if folder else default
        problem = None
        identity = _identity(target)
        original = (
            inputs_by_identity.get(identity) if identity else None
        )  # an input that is the same file, maybe by another name
        if target in taken:
            problem = f"{source} and {taken[target]} would both become {target}. Write them to different folders."
        elif original is not None and _identity(source) != identity:
            problem = f"{source} would become {target}, which is an input, too. Write the results to another folder."
        elif original is not None and not in_place:
            problem = f"{source} would be replaced by its own result. Choose another `output`, or set `in_place` to allow that."
        else:
            taken[target] = source
        jobs.append(Job(source, target, problem))
    return jobs


def _failed(path: Path, error: str) -> Job:
    return Job(path, path, error)


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of the file, which are the same for all its names. None if it does not exist or cannot be examined."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _sources(
    given: str, output: Path | None, recursive: bool, include_results: bool
) -> tuple[dict[Path, Path], list[Job], int, list[Path]]:
    """The images that one input names, each with its path below the input; folders that cannot be read; how many results are
    left out; and the files that are no images by their names.
    """
    path = Path(given)
    if path.is_dir():
        unreadable: list[Job] = []

        def on_error(folder: Path, error: OSError) -> None:
            unreadable.append(_failed(folder, f"Cannot read the folder {folder}: {error.strerror}."))

        others: list[Path] = []
        paths = sorted(image_like(path, recursive=recursive, on_error=on_error, on_other=others.append))
        inside = output is not None and output.resolve().is_relative_to(path.resolve()) and output.resolve() != path.resolve()
        paths = [source for source in paths if not (inside and output and source.resolve().is_relative_to(output.resolve()))]
        sources = paths if include_results else without_results(paths)
        if not sources and not unreadable:
            raise SrcliError(
                f"{path} contains no image. Give a folder with files that end in {', '.join(EXTENSIONS)}"
                f"{'' if recursive else ', or use `recursive` for its subfolders'}."
            )
        return {source: source.relative_to(path) for source in sources}, unreadable, len(paths) - len(sources), others
    if given != "-" and not path.exists() and glob.has_magic(given):
        matches = [Path(match) for match in sorted(glob.glob(given, recursive=True))]  # noqa: PTH207, Path.glob rejects absolute patterns
        images = [match for match in matches if match.suffix.lower() in EXTENSIONS]
        if not images:
            raise SrcliError(f"{given} matches no image. Files must end in {', '.join(EXTENSIONS)}.")
        return {match: match.relative_to(glob_root(path)) for match in images}, [], 0, []
    return {path: Path(path.name)}, [], 0, []


class Names:
    """Names of results from a template.

    {stem} and {ext} are those of the image and of the result, {suffix} is an underscore and the size, such as _x4, {scale} the
    factor, {width} and {height} the size of the result in pixels, and {model} the name of the model.
    Raises ConfigError for other fields.
    """

    def __init__(self, template: str, size: Size, extension: str | None, model: str) -> None:
        self.template, self.size, self.extension = template, size, extension
        stem = Path(model).stem if Path(model).suffix in (".pth", ".pt", ".safetensors", ".ckpt") else model
        self.fixed = {"suffix": f"_{size.name}", "scale": size.name.removeprefix("x"), "model": stem.replace(":", "-")}
        known = [*self.fixed, "stem", "ext", "width", "height"]
        try:
            fields = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
        except ValueError as error:
            raise ConfigError(f"`name` is {template!r}, which is no template: {error}.") from None
        for field in fields - set(known):
            raise ConfigError(f"`name` has the field {{{field}}}. {did_you_mean(field, known)}")
        if Path(template).name != template:
            raise ConfigError(f"`name` is {template!r}; it names files, not folders. Use `output` for a folder.")
        self.needs_size = bool(fields & {"width", "height"})

    def of(self, source: Path) -> Path:
        """The result of a source, next to it. Raises SrcliError if its size is needed but cannot be read."""
        extension = self.extension or result_extension(source.suffix)
        sides = {}
        if self.needs_size:
            image = open_image(source)
            sides = dict(zip(("width", "height"), map(str, self.size.of(image.width, image.height)), strict=True))
        name = self.template.format_map({**self.fixed, **sides, "stem": source.stem, "ext": extension.lstrip(".")})
        return source.with_name(name)


def model_chain(models: Sequence[Model], factor: float, first_models: Sequence[Model] = ()) -> list[Model]:
    """The models to apply one after another: the smallest product of scales that reaches `factor`, in the fewest passes.

    first_models: those for all passes but the last, if they differ. Smaller scales come first, as that costs less.
    A factor of 1 takes the model with the smallest scale.
    Raises SrcliError if it takes more than MAX_PASSES.
    """
    if factor == 1:
        return [min(models, key=lambda model: model.scale)]
    last = {model.scale: model for model in models if model.scale > 1}
    first = {model.scale: model for model in first_models or models if model.scale > 1}
    chains = [
        (*start, end)
        for length in range(MAX_PASSES)
        for start in combinations_with_replacement(sorted(first), length)
        for end in last
        if prod(start) * end >= factor
    ]
    if not last:
        raise SrcliError(f"{models[0].name} does not upscale images. Use another model, or `scale=1`.")
    if not chains:
        raise SrcliError(f"A factor of {factor:g} takes more than {MAX_PASSES} passes of the model. Use a smaller size.")
    *start, end = min(chains, key=lambda chain: (prod(chain), len(chain), chain))
    return [*(first[scale] for scale in start), last[end]]
