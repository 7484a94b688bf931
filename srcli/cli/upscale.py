"""`srcli upscale`: images in, larger images out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srcli.cli.messages import note, report
from srcli.cli.options import COMMON, MEMORY, Device, MaxPixels, Panel, Quiet, Verbose, complete_models, one_of
from srcli.cli.parsing import parse_color, parse_denoise, parse_memory, parse_size
from srcli.errors import ConfigError, SrcliError

if TYPE_CHECKING:
    from srcli.inference.backend import Model
    from srcli.inference.plan import Job

MAX_SCALE = 64
MAX_PREVIEWS = 50
"""Images on one page, which should open quickly: a large image takes 2 MB."""

FORMATS = ("png", "jpg", "webp", "tif", "avif", "jxl")

QUALITY = Panel("Quality")
INPUT = Panel("Input")
OUTPUT = Panel("Output")
BATCH = Panel("Batch")
CLUSTER = Panel("Cluster")

EXAMPLES = """
srcli upscale photo.jpg
srcli upscale photos -r -o large --scale 2 --format webp
srcli upscale photo.jpg --size 3840x2160 --fit --compare page.html
"""


def upscale(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Images, folders, globs such as 'a/**/*.jpg', or - for stdin."),
    ],
    output: Annotated[
        str | None,
        COMMON.option(
            "-o",
            "--output",
            metavar="OUT",
            help="A file for one image, otherwise a folder; - for stdout. [default: NAME_x4.EXT next to the input]",
        ),
    ] = None,
    scale: Annotated[
        float | None,
        COMMON.option(
            "-s",
            "--scale",
            metavar="X",
            help="Upscaling factor, such as 2.5; 1 only with --denoise. [default: the model's, or 4]",
        ),
    ] = None,
    size: Annotated[
        str | None, COMMON.option("--size", metavar="WxH", help="Size of the result: 1920x1080, 1920x or x1080.")
    ] = None,
    fit: Annotated[bool, COMMON.flag("--fit", help="Keep the aspect ratio and fit into --size.")] = False,
    effort: Annotated[
        str | None,
        COMMON.option(
            "-e",
            "--effort",
            metavar="LEVEL",
            help="fast, balanced or best: how much time to spend. [default: balanced]",
            autocompletion=one_of("fast", "balanced", "best"),
        ),
    ] = None,
    denoise: Annotated[
        str | None,
        COMMON.option(
            "--denoise",
            metavar="0..1",
            help="How much noise and JPEG artifacts to remove, or auto, which leaves clean images alone. [default: auto]",
            autocompletion=one_of("auto", "0", "0.5", "1"),
        ),
    ] = None,
    photo: Annotated[bool, COMMON.flag("--photo", help="Short for --denoise 1.")] = False,
    image_format: Annotated[
        str | None,
        COMMON.option(
            "-f",
            "--format",
            metavar="EXT",
            help="png, jpg, webp, tif, avif, jxl or gif. [default: the input's]",
            autocompletion=one_of(*FORMATS),
        ),
    ] = None,
    overwrite: Annotated[bool, COMMON.flag("--overwrite", help="Replace existing results.")] = False,
    compare: Annotated[
        Path | None,
        COMMON.option(
            "--compare", metavar="PAGE", help="Write an HTML page that compares each result with bicubic interpolation."
        ),
    ] = None,
    device: Device = "auto",
    model: Annotated[
        str | None,
        QUALITY.option(
            "-m",
            "--model",
            metavar="MODEL",
            help="A name from srcli models, or a model file. [default: chosen by --effort and the scale]",
            autocompletion=complete_models,
        ),
    ] = None,
    perceptual: Annotated[
        float | None,
        QUALITY.option(
            "--perceptual",
            metavar="0..1",
            help="From faithful (0) to sharper, with detail that may be invented (1). [default: 0]",
        ),
    ] = None,
    quality: Annotated[str | None, typer.Option("--quality", hidden=True)] = None,
    naturalness: Annotated[float | None, typer.Option("--naturalness", hidden=True)] = None,
    recursive: Annotated[bool, INPUT.flag("-r", "--recursive", help="Include the subfolders of a folder.")] = False,
    include_results: Annotated[
        bool,
        INPUT.flag("--include-results", help="Include results of earlier runs in a folder, such as a_x4.png next to a.png."),
    ] = False,
    frame: Annotated[
        int | None,
        INPUT.option("--frame", metavar="K", help="One frame of an animation or page of a file, from 1. [default: all]"),
    ] = None,
    allow_truncated: Annotated[
        bool, INPUT.flag("--allow-truncated", help="Upscale files that end early, and say which rows are missing.")
    ] = False,
    name: Annotated[
        str,
        OUTPUT.option(
            "--name",
            metavar="TEMPLATE",
            help="Names of results, from {stem}, {suffix}, {ext}, {scale}, {width}, {height} and {model}.",
        ),
    ] = "{stem}{suffix}.{ext}",
    output_quality: Annotated[
        int | None,
        OUTPUT.option(
            "-q", "--output-quality", metavar="1..100", help="Of JPEG, WebP, AVIF and JPEG XL. [default: 95, AVIF 90]"
        ),
    ] = None,
    lossless: Annotated[bool, OUTPUT.flag("--lossless", help="Write WebP, AVIF and JPEG XL without loss.")] = False,
    png_compression: Annotated[
        int | None, OUTPUT.option("--png-compression", metavar="0..9", help="From fast to small. [default: 6]")
    ] = None,
    bit_depth: Annotated[
        int | None,
        OUTPUT.option("--bit-depth", metavar="BITS", help="8, 10, 12 or 16 per channel. [default: the input's]"),
    ] = None,
    background: Annotated[
        str,
        OUTPUT.option("--background", metavar="COLOR", help="Behind transparency in JPEG: white, black, gray or #rrggbb."),
    ] = "white",
    strip_metadata: Annotated[
        bool, OUTPUT.flag("--strip-metadata", help="Drop EXIF, XMP and color profile, and convert to sRGB.")
    ] = False,
    keep_dates: Annotated[bool, OUTPUT.flag("--keep-dates", help="Give results the dates of their images.")] = False,
    in_place: Annotated[bool, OUTPUT.flag("--in-place", help="Allow -o to name the input itself, which is lost then.")] = False,
    skip_existing: Annotated[
        bool, BATCH.flag("--skip-existing", help="Skip images with a complete result of the right size.")
    ] = False,
    skip_large: Annotated[bool, BATCH.flag("--skip-large", help="Leave alone images that have the size of --size.")] = False,
    min_side: Annotated[
        int | None,
        BATCH.option("--min-side", metavar="N", help="Leave alone images whose shorter side has at least N pixels."),
    ] = None,
    fail_fast: Annotated[bool, BATCH.flag("--fail-fast", help="Stop at the first image that fails.")] = False,
    dry_run: Annotated[
        bool, BATCH.flag("--dry-run", help="Show what would be done without doing it; with --cluster, an estimate of the time.")
    ] = False,
    json: Annotated[bool, BATCH.flag("--json", help="Print a line of JSON for each image.")] = False,
    cluster: Annotated[
        str | None,
        CLUSTER.option(
            "--cluster",
            metavar="ADDRESS",
            help="Use a Ray cluster; local for a new one here. Inputs and -o may be URLs such as s3://bucket/photos.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        CLUSTER.option("--workers", metavar="N", help="Workers on the cluster. [default: one per node]"),
    ] = None,
    gpus: Annotated[
        float, CLUSTER.option("--gpus", metavar="SHARE", help="GPUs of each worker, such as 0.5. [default: 0]")
    ] = 0,
    manifest: Annotated[
        Path | None,
        CLUSTER.option("--manifest", metavar="FILE", help="Record of the results. [default: manifest.jsonl in a local OUT]"),
    ] = None,
    tile: Annotated[
        int | None,
        MEMORY.option(
            "--tile", metavar="N", help="Side of a tile in pixels of the input; 0 for no tiling. [default: what fits]"
        ),
    ] = None,
    memory: Annotated[
        str | None,
        MEMORY.option(
            "--memory", metavar="SIZE", help="Memory to use, such as 800M. [default: half of what is free, at most 2G]"
        ),
    ] = None,
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
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
    if scale is not None and not 1 <= scale <= MAX_SCALE:
        raise ConfigError(f"The scale is {scale:g}; it must be at least 1 and at most {MAX_SCALE}.")
    if scale is not None and size is not None:
        raise ConfigError("--scale and --size exclude each other. Choose one.")
    if model is not None and not (effort is None and perceptual is None and denoise is None and not photo):
        raise ConfigError("--model cannot be combined with --effort, --perceptual, --denoise or --photo, which choose a model.")
    if photo and denoise is not None:
        raise ConfigError("--photo is short for --denoise 1. Leave out one of them.")
    amount = 1.0 if photo else parse_denoise(denoise or "auto")
    if fit and size is None:
        raise ConfigError("--fit needs --size.")
    if tile is not None and tile != 0 and tile < 16:
        raise ConfigError(f"A tile of {tile} pixels is too small; use at least 16, or 0 for the whole image at once.")
    if overwrite and skip_existing:
        raise ConfigError("--overwrite and --skip-existing exclude each other. Choose one.")
    for option, value in {"--max-pixels": max_pixels, "--min-side": min_side}.items():
        if value is not None and value < 1:
            raise ConfigError(f"{option} is {value}; it must be at least 1.")
    if skip_large and size is None:
        raise ConfigError("--skip-large needs --size. With --scale, use --min-side N.")
    if cluster is None and (workers is not None or gpus or manifest is not None):
        raise ConfigError("--workers, --gpus and --manifest need --cluster.")
    if cluster is not None and (compare is not None or in_place or keep_dates or include_results):
        raise ConfigError("--cluster excludes --compare, --in-place, --keep-dates and --include-results.")
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers is {workers}; it must be at least 1.")
    if gpus < 0:
        raise ConfigError(f"--gpus is {gpus:g}; it must be at least 0.")
    if compare is not None and compare.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--compare writes an HTML page, so its name must end in .html (got {compare}).")
    if "-" in inputs and sys.stdin is not None and sys.stdin.isatty():
        raise ConfigError("stdin is a terminal, so there is no image to read. Pipe one, as in srcli upscale - < photo.jpg.")
    if (output == "-" or (output is None and inputs == ["-"])) and sys.stdout is not None and sys.stdout.isatty():
        raise ConfigError("stdout is a terminal, which shows no images. Set `output` to a file, or pipe stdout to a program.")
    red, green, blue = (round(part * 255) for part in parse_color(background))

    from srcli.cli.upscale_run import run_jobs
    from srcli.inference.batch import UpscaleOptions
    from srcli.inference.denoise import LEVELS
    from srcli.inference.plan import Size, plan
    from srcli.inference.tiling import plan_tiling
    from srcli.io.formats import SaveOptions, extension_named
    from srcli.models.registry import select_models

    def selected(amount: float) -> tuple[Sequence[Model], Sequence[Model]]:
        """For all passes, and for all but the last: perceptual models are not trained on the output of perceptual models."""
        level = effort or "balanced"
        first = select_models(effort=level, denoise=amount) if perceptual else ()
        return select_models(effort=level, perceptual=perceptual or 0, denoise=amount), first

    models, first_models = ([_find_model(model)], ()) if model is not None else selected(amount or 0)
    # tiny models have no version that denoises, and base models take four times as long
    automatic = amount is None and model is None and effort != "fast"
    if scale == 1 and not all(each.restores for each in models):
        raise ConfigError(
            "A scale of 1 keeps the size; add --denoise 1 to remove noise and artifacts, or set a larger --scale."
        )
    target_size = parse_size(size, fit=fit) if size else Size(scale=scale or (models[0].scale if model else 4))
    extension = extension_named(image_format) if image_format else None
    options = UpscaleOptions(
        size=target_size,
        models=models,
        first_models=first_models,
        models_by_denoise={level: selected(level) for level in LEVELS} if automatic else {},
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
        save=SaveOptions(output_quality, lossless, png_compression, bit_depth, mark=not strip_metadata),
        previews=MAX_PREVIEWS if compare else 0,
        min_side=min_side,
        skip_large=skip_large,
    )
    if cluster is not None:
        from srcli.cli.upscale_cluster import run_on_cluster
        from srcli.inference.plan import Names

        run_on_cluster(
            options,
            inputs,
            output,
            Names(name, target_size, extension, model or models[0].name),
            address=cluster,
            workers=workers,
            gpus=gpus,
            manifest=manifest,
            recursive=recursive,
            json=json,
            fail_fast=fail_fast,
        )
        return
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
        on_note=note,
    )
    if compare and not dry_run:
        _check_page(compare, jobs, overwrite=overwrite)
    run_jobs(options, jobs, json=json, fail_fast=fail_fast, page=compare)


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
        note(model.note)
    return model
