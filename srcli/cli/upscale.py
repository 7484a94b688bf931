"""`srcli upscale`: images in, larger images out."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srcli.cli.messages import as_options, report
from srcli.cli.parsing import parse_color, parse_memory, parse_size
from srcli.cli.signals import stop_signals
from srcli.cli.upscale_progress import UpscaleProgress
from srcli.errors import ConfigError, SrcliError, counted

if TYPE_CHECKING:
    from srcli.inference.backend import Model
    from srcli.inference.batch import UpscaleOptions, UpscaleResult
    from srcli.inference.plan import Job

MAX_SCALE = 64
MAX_PREVIEWS = 50
"""Images on one page, which should open quickly: a large image takes 2 MB."""


def upscale(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT", help="Images, folders, globs such as 'a/**/*.jpg', or - for stdin.", show_default=False
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT",
            help="A file for one image, otherwise a folder; - for stdout. [default: NAME_x4.EXT next to the input]",
        ),
    ] = None,
    scale: Annotated[
        float | None, typer.Option("--scale", help="Upscaling factor, such as 2 or 2.5. [default: the model's, or 4]")
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", metavar="WxH", help="Size of the result: 1920x1080, 1920x or x1080.")
    ] = None,
    fit: Annotated[bool, typer.Option("--fit", help="Keep the aspect ratio and fit into --size.")] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            metavar="NAME|FILE",
            help="A shipped model or a model file. [default: chosen by --effort and the scale]",
        ),
    ] = None,
    effort: Annotated[
        str | None,
        typer.Option(
            "--effort",
            metavar="LEVEL",
            help="fast, balanced or best: how much time to spend on an image. [default: balanced]",
            show_default=False,
        ),
    ] = None,
    quality: Annotated[str | None, typer.Option("--quality", hidden=True)] = None,
    perceptual: Annotated[
        float | None,
        typer.Option(
            "--perceptual",
            metavar="0..1",
            help="From faithful (0) to sharper, with detail that may be invented (1). [default: 0]",
            show_default=False,
        ),
    ] = None,
    naturalness: Annotated[float | None, typer.Option("--naturalness", hidden=True)] = None,
    photo: Annotated[
        bool, typer.Option("--photo", help="Remove noise, JPEG artifacts and slight blur, for images that have them.")
    ] = False,
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    recursive: Annotated[bool, typer.Option("-r", "--recursive", help="Include the subfolders of a folder.")] = False,
    include_results: Annotated[
        bool,
        typer.Option(
            "--include-results", help="Also upscale results of earlier runs in a folder, such as a_x4.png next to a.png."
        ),
    ] = False,
    image_format: Annotated[
        str | None,
        typer.Option("--format", metavar="EXT", help="png, jpg, webp, tif, avif, jxl or gif. [default: the input's]"),
    ] = None,
    output_quality: Annotated[
        int | None,
        typer.Option(
            "-q",
            "--output-quality",
            metavar="1..100",
            help="Of JPEG, WebP, AVIF and JPEG XL. [default: 95, AVIF 90]",
            show_default=False,
        ),
    ] = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="Write WebP, AVIF and JPEG XL without loss.")] = False,
    png_compression: Annotated[
        int | None,
        typer.Option("--png-compression", metavar="0..9", help="From fast to small. [default: 6]", show_default=False),
    ] = None,
    bit_depth: Annotated[
        int | None,
        typer.Option("--bit-depth", metavar="8|10|12|16", help="Bits per channel. [default: the input's]", show_default=False),
    ] = None,
    name: Annotated[
        str,
        typer.Option(
            "--name",
            metavar="TEMPLATE",
            help="Names of results, from {stem}, {suffix}, {ext}, {scale}, {width}, {height} and {model}.",
        ),
    ] = "{stem}{suffix}.{ext}",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")] = False,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Allow -o to name the input itself, which is lost then.")
    ] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Skip images with a complete result of the right size.")
    ] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first image that fails.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done without doing it.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each image.")] = False,
    tile: Annotated[
        int | None,
        typer.Option(
            "--tile",
            help="Side of a tile in pixels of the input; 0 for no tiling. [default: what fits into memory]",
            show_default=False,
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory", metavar="SIZE", help="Memory to use, such as 800M. [default: half of what is free, at most 2G]"
        ),
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            "--max-pixels",
            help="Reject images with more pixels. [default: 1000000000, and less for very small files]",
            show_default=False,
        ),
    ] = None,
    frame: Annotated[
        int | None,
        typer.Option("--frame", metavar="K", help="One frame of an animation or page of a file, from 1. [default: all]"),
    ] = None,
    background: Annotated[
        str, typer.Option("--background", metavar="COLOR", help="Replaces transparency in JPEG: white, black, gray or #rrggbb.")
    ] = "white",
    allow_truncated: Annotated[
        bool, typer.Option("--allow-truncated", help="Upscale files that end early, and say which rows are missing.")
    ] = False,
    strip_metadata: Annotated[
        bool, typer.Option("--strip-metadata", help="Drop EXIF, XMP and color profile, and convert to sRGB.")
    ] = False,
    keep_dates: Annotated[bool, typer.Option("--keep-dates", help="Give results the dates of their images.")] = False,
    compare: Annotated[
        Path | None,
        typer.Option(
            "--compare", metavar="PAGE", help="Write an HTML page that compares each result with bicubic interpolation."
        ),
    ] = None,
) -> None:
    """Upscale images. Prints the path of each result.

    Writes PNG, JPEG, WebP, TIFF, AVIF, JPEG XL and GIF, and also reads BMP, PNM and HEIC. Preserves animations, 16 bits,
    gray, transparency, color profile and metadata, and says what a format cannot hold.
    """
    if naturalness is not None:
        report("--naturalness is now called --perceptual; the old name will be removed in the next version.")
        perceptual = naturalness if perceptual is None else perceptual
    if quality is not None:
        report("--quality is now called --effort; the old name will be removed in the next version.")
        effort = quality if effort is None else effort
    if scale is not None and not 1 < scale <= MAX_SCALE:
        raise ConfigError(f"The scale is {scale:g}; it must be above 1 and at most {MAX_SCALE}.")
    if scale is not None and size is not None:
        raise ConfigError("--scale and --size exclude each other. Choose one.")
    if model is not None and not (effort is None and perceptual is None and not photo):
        raise ConfigError("--model cannot be combined with --effort, --perceptual or --photo, which choose a model.")
    if fit and size is None:
        raise ConfigError("--fit needs --size.")
    if tile is not None and tile != 0 and tile < 16:
        raise ConfigError(f"A tile of {tile} pixels is too small; use at least 16, or 0 for the whole image at once.")
    if overwrite and skip_existing:
        raise ConfigError("--overwrite and --skip-existing exclude each other. Choose one.")
    if max_pixels is not None and max_pixels < 1:
        raise ConfigError(f"--max-pixels is {max_pixels}; it must be at least 1.")
    if compare is not None and compare.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--compare writes an HTML page, so its name must end in .html (got {compare}).")
    red, green, blue = (round(part * 255) for part in parse_color(background))

    from srcli.inference.batch import UpscaleOptions
    from srcli.inference.plan import Size, plan
    from srcli.inference.tiling import plan_tiling
    from srcli.io.formats import SaveOptions, extension_named
    from srcli.models.registry import select_models

    models = (
        [_find_model(model)]
        if model is not None
        else select_models(effort=effort or "balanced", perceptual=perceptual or 0, photo=photo)
    )
    # perceptual models are not trained on the output of other perceptual models
    first_models = select_models(effort=effort or "balanced") if perceptual else ()
    target_size = parse_size(size, fit=fit) if size else Size(scale=scale or (models[0].scale if model else 4))
    extension = extension_named(image_format) if image_format else None
    options = UpscaleOptions(
        size=target_size,
        models=models,
        first_models=first_models,
        tiling=plan_tiling(tile, parse_memory(memory) if memory else None),
        device=device,
        extension=extension,
        overwrite=overwrite,
        in_place=in_place,
        skip_existing=skip_existing,
        dry_run=dry_run,
        frame=frame,
        max_pixels=max_pixels,
        strip_metadata=strip_metadata,
        allow_truncated=allow_truncated,
        keep_dates=keep_dates,
        background=(red, green, blue),
        save=SaveOptions(output_quality, lossless, png_compression, bit_depth),
        previews=MAX_PREVIEWS if compare else 0,
    )
    jobs = plan(
        inputs,
        output,
        target_size,
        extension=extension,
        recursive=recursive,
        name=name,
        model=model or models[0].name,
        in_place=in_place,
        include_results=include_results,
        on_note=report,
    )
    if compare and not dry_run:
        _check_page(compare, jobs, overwrite=overwrite)
    _run(options, jobs, json=json, fail_fast=fail_fast, page=compare)


def _check_page(page: Path, jobs: Sequence[Job], *, overwrite: bool) -> None:
    """Raise SrcliError before the work if the page could not be written after it."""
    from srcli.io.atomic import check_writable, remove_stale_temp_files

    if page.resolve() in {path.resolve() for job in jobs for path in (job.source, job.target)}:
        raise SrcliError(f"{page} is one of the images. Give the page another name.")
    check_writable(page, overwrite=overwrite)
    remove_stale_temp_files([page])


def _find_model(name: str) -> Model:
    from srcli.inference.backend import find_model
    from srcli.models.registry import ModelSpec, current_name

    if current_name(name) != name:
        report(f"{name} is now called {current_name(name)}; the old name will be removed in the next version.")
    model = find_model(name)
    if not isinstance(model, ModelSpec):
        report(model.note)
    return model


def _run(options: UpscaleOptions, jobs: list[Job], *, json: bool, fail_fast: bool, page: Path | None) -> None:
    """Run the jobs and print their results; all failures are listed at the end. page: where to write the comparison."""
    from srcli.inference.batch import BatchUpscaler, ProgressCallbacks

    failures: list[str] = []
    with_previews: list[UpscaleResult] = []
    done = skipped = 0
    interrupted = False
    with _stop_signals_as_interrupt(), UpscaleProgress(len(jobs)) as progress:
        callbacks = ProgressCallbacks(progress.start, progress.advance, progress.note)
        results = BatchUpscaler(options, callbacks).run(jobs)
        try:
            for result in results:
                progress.finish(result.job)
                for note in result.notes:
                    progress.note(note)
                done += not result.error
                skipped += result.skipped
                if result.previews:
                    with_previews.append(result)
                if result.error:
                    failures.append(result.error)
                if json:
                    progress.result(dumps(_record(result)))
                elif not (result.error or result.skipped or str(result.job.target) == "-" or options.dry_run):
                    progress.result(str(result.job.target))
                if result.error and fail_fast:
                    break
        except KeyboardInterrupt:
            interrupted = True
            progress.note("interrupted; images in progress were left unchanged. Continue with --skip-existing.")
        finally:
            results.close()  # type: ignore[attr-defined]
    if page and with_previews and not interrupted:
        _write_page(page, with_previews, left_out=done - len(with_previews), overwrite=options.overwrite)
    if skipped:
        report(f"skipped {counted(skipped, 'existing result')}.")
    for failure in failures:
        report(failure)
    if interrupted:
        raise typer.Exit(130)
    if failures:
        raise typer.Exit(1)


def _write_page(path: Path, results: Sequence[UpscaleResult], *, left_out: int, overwrite: bool) -> None:
    from srcli.evaluation.upscale_page import UpscaledImage, as_page
    from srcli.io.atomic import write_text

    images = [
        UpscaledImage(
            "stdin" if str(result.job.source) == "-" else str(result.job.source),
            "stdout" if str(result.job.target) == "-" else str(result.job.target),
            result.lr or (0, 0),
            result.sr or (0, 0),
            "existing result" if result.skipped else f"{', '.join(result.models)} on {result.device}, {result.seconds:.1f} s",
            result.previews,
        )
        for result in results
    ]
    write_text(path, as_page(images, left_out=left_out), overwrite=overwrite)
    report(f"{path} compares {counted(len(results), 'image')} with bicubic interpolation.")


def _record(result: UpscaleResult) -> dict[str, Any]:
    return {
        "input": str(result.job.source),
        "output": str(result.job.target),
        "lr": result.lr,
        "sr": result.sr,
        "models": result.models,
        "device": result.device,
        "seconds": result.seconds,
        "skipped": result.skipped,
        "notes": [as_options(note) for note in result.notes],
        "error": result.error and as_options(result.error),
    }


@contextmanager
def _stop_signals_as_interrupt() -> Iterator[None]:
    """Handle SIGTERM and a closed terminal like Ctrl-C, so that no incomplete file is left."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = [(number, signal.signal(number, interrupt)) for number in stop_signals()]
    except ValueError:  # not in the main thread, where signals cannot be handled
        yield
        return
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
