"""`srcli compare-loss`: a reference image and others in, metrics, maps and a page out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srcli.cli.messages import report
from srcli.cli.parsing import parse_color, parse_limits
from srcli.config import LossConfig, parse_loss
from srcli.errors import ConfigError, SrcliError
from srcli.io.atomic import atomic_write, check_writable, write_text
from srcli.io.discover import find_images

if TYPE_CHECKING:
    import numpy as np

    from srcli.evaluation.compare import Comparison

MISSED_LIMIT = 3
"""Exit code if a limit of --max or --min is missed."""

TRAINING_ONLY = {
    "texture": "compares windows of a crop",
    "grid": "depends on the scale of a generator",
    "frequency": "covers a whole crop",
}
"""Loss terms that are not defined for whole images, and why."""


def compare_loss(
    reference: Annotated[
        Path, typer.Argument(metavar="REFERENCE", help="The reference image, or a folder of them.", show_default=False)
    ],
    candidates: Annotated[
        list[Path], typer.Argument(metavar="CANDIDATE", help="Images to compare with it, or one folder.", show_default=False)
    ],
    layers: Annotated[
        str,
        typer.Option(
            "--layers",
            metavar="LAYERS",
            help="VGG16 layers of the feature loss, such as relu2_2=0.5,relu4_3, or first23, johnson, gatys, all.",
        ),
    ] = "first23",
    loss: Annotated[
        str,
        typer.Option("--loss", metavar="TERMS", help="Terms of the total with weights; see srcli losses."),
    ] = "pixel=1,feature=1",
    distance: Annotated[
        str, typer.Option("--distance", metavar="WHICH", help="Distance of features: squared or absolute.")
    ] = "squared",
    vgg: Annotated[
        str, typer.Option("--vgg", metavar="FILE", help="VGG16 weights: oxford, imagenet1k-v1, or a .pth or .safetensors file.")
    ] = "oxford",
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", metavar="bicubic", help="Compare bicubic interpolation of --lr as well."),
    ] = None,
    lr: Annotated[Path | None, typer.Option("--lr", metavar="FILE", help="The small image that was upscaled.")] = None,
    resize_to: Annotated[
        str | None,
        typer.Option("--resize-to", metavar="WHICH", help="Resize all images to the size of the reference or the candidate."),
    ] = None,
    crop_to_common: Annotated[
        bool, typer.Option("--crop-to-common", help="Crop to the largest common size, at the right and at the bottom.")
    ] = False,
    background: Annotated[
        str, typer.Option("--background", metavar="COLOR", help="Behind transparency: white, black, gray or #rrggbb.")
    ] = "white",
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Skip images without a counterpart in the other folder.")
    ] = False,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            "--max-pixels",
            help="Reject images with more pixels. [default: 1000000000, and less for very small files]",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document at full precision.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV at full precision.")] = False,
    map_file: Annotated[
        Path | None, typer.Option("--map", metavar="FILE", help="Write heat maps of the differences (PNG).", show_default=False)
    ] = None,
    html_file: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write an HTML page with a slider, heat maps and the worst regions."),
    ] = None,
    at_most: Annotated[
        list[str] | None,
        typer.Option("--max", metavar="METRIC=LIMIT", help="Exit with code 3 if a metric is larger, as in total=0.02."),
    ] = None,
    at_least: Annotated[
        list[str] | None,
        typer.Option("--min", metavar="METRIC=LIMIT", help="Exit with code 3 if a metric is smaller, as in psnr=30."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing map and page files.")] = False,
) -> None:
    """Measure how much images differ from a reference.

    The metrics are the losses that srcli train minimizes, PSNR and SSIM. Two folders are paired by file name.
    docs/compare-loss.md explains the metrics.
    """
    config = parse_loss(loss, layers, distance)
    color = parse_color(background)
    most, least = parse_limits(at_most or [], config), parse_limits(at_least or [], config)
    folders = reference.is_dir()
    files = [path for path in (map_file, html_file) if path]
    _check_terms(config)
    if json and csv:
        raise ConfigError("--json and --csv exclude each other. Choose one.")
    if resize_to not in (None, "reference", "candidate"):
        raise ConfigError(f"--resize-to is {resize_to!r}; choose reference or candidate.")
    if resize_to and crop_to_common:
        raise ConfigError("--resize-to and --crop-to-common exclude each other. Choose one.")
    if baseline not in (None, "bicubic"):
        raise ConfigError(f"Unknown baseline {baseline!r}; the only supported value is bicubic.")
    if (baseline is None) != (lr is None):
        raise ConfigError("--baseline bicubic and --lr FILE must be given together.")
    if folders and (len(candidates) > 1 or not candidates[0].is_dir()):
        raise ConfigError(f"{reference} is a folder, so the only candidate must be a folder as well.")
    if files and (folders or len(candidates) > 1):
        raise ConfigError("--map and --html support one pair only; give one reference and one candidate.")
    for path in files:
        check_writable(path, overwrite=overwrite)
    pairs, missing = _pairs(reference, candidates[0]) if folders else ([(reference, path) for path in candidates], [])
    if missing and not allow_missing:
        raise SrcliError("\nsrcli: ".join(missing) + " Use `allow_missing` to compare the others.")
    groups = [(first, [second]) for first, second in pairs] if folders else [(reference, candidates)]

    from srcli.evaluation.compare import Comparer, bicubic_to, match_sizes, read_comparison_image

    comparer = Comparer(config, vgg)
    comparisons: list[Comparison] = []
    failures: list[str] = []
    for first, group in groups:
        try:
            truth = read_comparison_image(first, max_pixels)
            others = [read_comparison_image(path, max_pixels) for path in group]
        except SrcliError as error:
            if not folders:
                raise
            failures.append(str(error))  # a bad image does not stop the comparison of folders
            continue
        if lr:
            others.append(bicubic_to(read_comparison_image(lr, max_pixels), truth))
        if resize_to or crop_to_common:
            truth, others = match_sizes(truth, others, resize_to)
        comparisons += comparer.compare(truth, others, background=color, maps=bool(files))
        if files:
            images = truth.flat(color), others[0].flat(color)
            _draw(comparisons[0], *images, background, map_file, html_file)
    if not comparisons:
        raise SrcliError("\nsrcli: ".join(failures))

    print(_formatted(comparisons, background, folders=folders, json=json, csv=csv))
    _exit(missing, failures, _missed_limits(comparisons, most, least))


def _formatted(comparisons: Sequence[Comparison], background: str, *, folders: bool, json: bool, csv: bool) -> str:
    from srcli.evaluation.formatting import as_csv, as_json, as_rows, as_table

    if json:
        return as_json(comparisons, background=background, with_summary=folders)
    if csv:
        return as_csv(comparisons)
    if folders:
        return as_rows(comparisons, by="reference", mark_best=False, with_summary=True, background=background)
    if len(comparisons) > 1:
        return as_rows(comparisons, by="candidate", mark_best=True, with_summary=False, background=background)
    return as_table(comparisons[0], background)


def _missed_limits(comparisons: Sequence[Comparison], most: Mapping[str, float], least: Mapping[str, float]) -> list[str]:
    from srcli.evaluation.formatting import missed_limits

    return [sentence for comparison in comparisons for sentence in missed_limits(comparison, most, least)]


def _exit(missing: list[str], failures: list[str], limits: list[str]) -> None:
    """Report everything that went wrong, and exit with the code for it."""
    for sentence in missing + failures + limits:
        report(sentence)
    if failures:
        raise typer.Exit(1)
    if limits:
        raise typer.Exit(MISSED_LIMIT)


def _check_terms(loss: LossConfig) -> None:
    for term, reason in TRAINING_ONLY.items():
        if getattr(loss, term):
            raise ConfigError(f"The {term} loss {reason}, so it is not defined for whole images; leave out {term}.")


def _pairs(reference: Path, candidate: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Images of two folders with the same name, regardless of the extension; and a sentence for each without a counterpart."""
    ours, theirs = _by_name(reference), _by_name(candidate)
    missing = [f"{path} has no counterpart in {candidate}." for name, path in ours.items() if name not in theirs]
    missing += [f"{path} has no counterpart in {reference}." for name, path in theirs.items() if name not in ours]
    pairs = [(path, theirs[name]) for name, path in ours.items() if name in theirs]
    if not pairs:
        raise SrcliError(f"No image in {reference} has the name of one in {candidate}. Give two folders with the same names.")
    return pairs, missing


def _by_name(folder: Path) -> dict[Path, Path]:
    """The images of a folder by their path in it, without extension."""
    names: dict[Path, Path] = {}
    for path in find_images(folder):
        name = path.relative_to(folder).with_suffix("")
        if name in names:
            raise SrcliError(f"{names[name]} and {path} have the same name, so pairs would be ambiguous. Move one of them.")
        names[name] = path
    return names


def _draw(
    comparison: Comparison,
    reference: np.ndarray,
    candidate: np.ndarray,
    background: str,
    map_file: Path | None,
    html_file: Path | None,
) -> None:
    """Write the heat maps and the page of one comparison. reference, candidate: H x W x 3 uint8."""
    if map_file:
        from srcli.evaluation.heatmap import sheet

        with atomic_write(map_file) as part:
            sheet(comparison.maps, candidate).save(part, "PNG")
    if html_file:
        from srcli.evaluation.comparison_page import as_page

        write_text(html_file, as_page(comparison, reference, candidate, background))
