"""`srcli upscale`: pictures in, larger pictures out."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srcli.errors import SettingsError, SrcliError

if TYPE_CHECKING:
    from srcli.catalog import Description
    from srcli.upscaling import Enlarger


@dataclass(frozen=True)
class Job:
    """One picture to enlarge and where the result goes."""

    source: Path
    target: Path


def upscale(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT", help="Pictures, or folders of pictures.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="OUT", help="File for one picture, else a folder. [default: NAME_x4.EXT beside the input]"
        ),
    ] = None,
    scale: Annotated[int | None, typer.Option("--scale", help="2, 3 or 4 times larger. [default: the model's, else 4]")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "-m", "--model", metavar="NAME|FILE", help="A shipped model or a model file. [default: compact of the scale]"
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    tile: Annotated[
        int | None,
        typer.Option("--tile", help="Side of a tile in pixels of the input; 0 for none. [default: 256]", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that are there already.")] = False,
) -> None:
    """Enlarge pictures. Prints the name of each result.

    PNG, JPEG, WebP, TIFF and AVIF in and out; 16 bits, grey, transparency, colour profile and EXIF stay.
    """
    if scale is not None and scale not in (2, 3, 4, 8):
        raise SettingsError(f"There is no scale {scale}; choose 2, 3 or 4.")
    if tile is not None and tile != 0 and tile < 16:
        raise SettingsError(f"A tile of {tile} pixels is too small; use at least 16, or 0 for the whole picture at once.")
    name = model or f"compact-x{scale or 4}"

    from srcli.catalog import describe_model

    described = describe_model(name)
    enlarges = described.scale
    if scale is not None and scale != enlarges:
        raise SettingsError(
            f"The model {name} enlarges {enlarges} times, not {scale}. Leave out --scale or choose another model."
        )
    jobs, failures = plan(inputs, output, enlarges, overwrite=overwrite)
    try:
        if jobs:
            _run(jobs, described, device, tile, overwrite, failures)
    finally:
        for failure in failures:
            print(f"srcli: {failure}", file=sys.stderr)
    if failures:
        raise typer.Exit(1)


def plan(inputs: Iterable[Path], output: Path | None, scale: int, *, overwrite: bool) -> tuple[list[Job], list[str]]:
    """The pictures to enlarge with their targets, and a sentence for each input that cannot be."""
    from srcli.images import EXTENSIONS, find_pictures

    sources: list[Path] = []
    failures: list[str] = []
    for given in inputs:
        if not given.is_dir():
            sources.append(given)
            continue
        try:
            found = find_pictures(given, below=False)
        except SrcliError as error:
            failures.append(str(error))
            continue
        results = {_beside(path, scale) for path in found}
        sources += [path for path in found if path not in results]  # an earlier call's results are no input
    to_file = output is not None and output.suffix != "" and not output.is_dir()
    if output is not None and to_file and output.suffix.lower() not in EXTENSIONS:
        raise SettingsError(
            f"srcli cannot write {output}; let it end in {', '.join(EXTENSIONS)}, or make the folder if it is to be one."
        )
    if to_file and len(sources) > 1:
        raise SettingsError(f"{output} is one file and there are {len(sources)} pictures. Give a folder to -o.")
    jobs: list[Job] = []
    taken: dict[Path, Path] = {}
    for source in dict.fromkeys(sources):
        target = _beside(source, scale)
        if output is not None:
            target = output if to_file else output / target.name
        if source.exists() and target.suffix.lower() not in EXTENSIONS:
            failures.append(f"{source}: srcli does not write {target.suffix or 'files without ending'}. Give a name with -o.")
        elif target in taken:
            failures.append(f"{source} and {taken[target]} would both become {target}. Enlarge them into different folders.")
        elif target.exists() and not overwrite:
            failures.append(f"{target} is there already, so {source} was left alone. Use --overwrite to replace it.")
        else:
            taken[target] = source
            jobs.append(Job(source, target))
    return jobs, failures


def _beside(source: Path, scale: int) -> Path:
    return source.with_name(f"{source.stem}_x{scale}{source.suffix}")


def _run(jobs: list[Job], model: Description, device: str, tile: int | None, overwrite: bool, failures: list[str]) -> None:
    """Do the jobs, whatever becomes of any one of them; `failures` gets a sentence for each that failed."""
    from rich.console import Console
    from rich.progress import Progress

    from srcli.images import check_target, read_picture, write_picture
    from srcli.upscaling import load_enlarger
    from srcli.upscaling import upscale as enlarge

    enlarger: Enlarger | None = None
    console = Console(stderr=True)
    progress = Progress(
        console=console, disable=not console.is_terminal, transient=True, redirect_stdout=False, redirect_stderr=False
    )
    with progress:
        bar = progress.add_task("")
        for number, job in enumerate(jobs, start=1):
            progress.update(bar, description=f"{job.source.name} ({number} of {len(jobs)})", completed=0, total=None)
            try:
                picture = read_picture(job.source)
                check_target(job.target, picture.width * model.scale, picture.height * model.scale)
            except SrcliError as error:
                failures.append(str(error))
                continue
            # the first readable picture pays for torch; a refused one does not wait for it
            enlarger = enlarger or load_enlarger(model, device)
            try:
                result = enlarge(enlarger, picture, tile=tile, on_pixels=lambda done: progress.update(bar, advance=done))
                lost = write_picture(result, job.target, overwrite=overwrite)
            except SrcliError as error:
                failures.append(str(error))
                continue
            progress.stop()  # so that the bar and the lines do not mix where both go to one terminal
            for what in lost:
                print(f"srcli: {job.target} could not hold everything: {what}.", file=sys.stderr)
            typer.echo(job.target)
            progress.start()
