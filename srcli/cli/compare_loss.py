"""`srcli compare-loss`: a true image and others in, figures, maps and a page out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srcli.cli.messages import report
from srcli.cli.parsing import parse_color
from srcli.config import parse_loss
from srcli.errors import ConfigError, SrcliError
from srcli.io.atomic import atomic_write

if TYPE_CHECKING:
    from srcli.evaluation.compare import Comparison, ComparisonImage

MISSED = 3
"""Exit code when a limit of --max or --min is not kept."""


def compare_loss(
    reference: Annotated[Path, typer.Argument(help="The true image, or a folder of them.", show_default=False)],
    candidates: Annotated[
        list[Path], typer.Argument(metavar="CANDIDATE", help="Images to judge, or one folder.", show_default=False)
    ],
    layers: Annotated[
        str, typer.Option("--layers", metavar="LAYERS", help="As in relu2_2=0.5,relu4_3; or first23, johnson, gatys, all.")
    ] = "first23",
    loss: Annotated[
        str,
        typer.Option("--loss", metavar="TERMS", help="Weights of the terms of the total, as srcli train takes them."),
    ] = "pixel=1,feature=1",
    distance: Annotated[str, typer.Option("--distance", metavar="WHICH", help="Of features: squared or absolute.")] = "squared",
    vgg: Annotated[
        str, typer.Option("--vgg", metavar="FILE", help="VGG16 weights: oxford, imagenet1k-v1, or a .pth or .safetensors.")
    ] = "oxford",
    baseline: Annotated[
        str | None, typer.Option("--baseline", metavar="bicubic", help="Add what bicubic makes of the image given with --lr.")
    ] = None,
    lr: Annotated[Path | None, typer.Option("--lr", metavar="FILE", help="The small image that was upscaled.")] = None,
    resize_to: Annotated[
        str | None, typer.Option("--resize-to", metavar="WHICH", help="Resize to the size of the reference or the candidate.")
    ] = None,
    crop_to_common: Annotated[
        bool, typer.Option("--crop-to-common", help="Cut what is wider or higher at the right and below.")
    ] = False,
    background: Annotated[
        str, typer.Option("--background", metavar="COLOR", help="Under transparency: white, black, gray or #rrggbb.")
    ] = "white",
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out what has no partner in the other folder.")
    ] = False,
    max_pixels: Annotated[int, typer.Option("--max-pixels", help="Refuse images with more pixels.")] = 500_000_000,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document at full precision.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV at full precision.")] = False,
    map_file: Annotated[
        Path | None, typer.Option("--map", metavar="FILE", help="Write heat maps of the differences (PNG).", show_default=False)
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with slider, maps and worst regions.")
    ] = None,
    at_most: Annotated[
        list[str] | None,
        typer.Option("--max", metavar="FIGURE=LIMIT", help="Exit with 3 where a figure is larger, as in total=0.02."),
    ] = None,
    at_least: Annotated[
        list[str] | None,
        typer.Option("--min", metavar="FIGURE=LIMIT", help="Exit with 3 where a figure is smaller, as in psnr=30."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace map and page files that are there already.")] = False,
) -> None:
    """Say how far images are from the true one under the losses that srcli trains on.

    Two folders are paired by file name. Docs: docs/compare-loss.md.
    """
    from srcli.evaluation.formatting import as_csv, as_json, as_rows, as_table, missed, parse_limits

    config = parse_loss(loss, layers, distance)
    for term, why in (
        ("texture", "compares windows of a crop"),
        ("grid", "depends on a generator's scale"),
        ("frequency", "spans the whole of a crop"),
    ):
        if getattr(config, term):
            raise ConfigError(f"The {term} loss {why}, so images are not compared by it; leave out {term}.")
    color = parse_color(background)
    most, least = parse_limits(at_most or [], config), parse_limits(at_least or [], config)
    folders = reference.is_dir()
    files = [path for path in (map_file, html_file) if path]
    if json and csv:
        raise ConfigError("--json and --csv exclude each other; give one.")
    if resize_to not in (None, "reference", "candidate"):
        raise ConfigError(f"There is no --resize-to {resize_to}; choose reference or candidate.")
    if resize_to and crop_to_common:
        raise ConfigError("--resize-to and --crop-to-common exclude each other; give one.")
    if baseline not in (None, "bicubic"):
        raise ConfigError(f"There is no baseline {baseline!r}; the one there is, is bicubic.")
    if (baseline is None) != (lr is None):
        raise ConfigError(
            "--baseline bicubic and --lr FILE belong together: the small image, upscaled to the reference's size."
        )
    if folders and (len(candidates) > 1 or not candidates[0].is_dir()):
        raise ConfigError(f"{reference} is a folder, so there must be one candidate, and it a folder too.")
    if files and (folders or len(candidates) > 1):
        raise ConfigError("--map and --html draw one pair; give one reference and one candidate.")
    for path in files:
        if path.exists() and not overwrite:
            raise SrcliError(f"{path} is there already. Use --overwrite to replace it.")
    pairs, missing = _pairs(reference, candidates[0]) if folders else ([(reference, path) for path in candidates], [])
    if missing and not allow_missing:
        raise SrcliError("\nsrcli: ".join(missing) + " Use --allow-missing to compare the others.")
    groups = [(first, [second]) for first, second in pairs] if folders else [(reference, candidates)]

    from srcli.evaluation.compare import Comparer, bicubic_to, fitted, read_comparison_image

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
            failures.append(str(error))  # one bad image does not stop a folder
            continue
        if lr:
            others.append(bicubic_to(read_comparison_image(lr, max_pixels), truth))
        if resize_to or crop_to_common:
            truth, others = fitted(truth, others, resize_to)
        comparisons += comparer.compare(truth, others, background=color, maps=bool(files))
        if files:
            _draw(comparisons[0], truth, others[0], background, map_file, html_file)
    if not comparisons:
        raise SrcliError("\nsrcli: ".join(failures))

    if json:
        typer.echo(as_json(comparisons, background=background, with_summary=folders))
    elif csv:
        typer.echo(as_csv(comparisons))
    elif folders:
        typer.echo(as_rows(comparisons, by="reference", mark_best=False, with_summary=True, background=background))
    elif len(comparisons) > 1:
        typer.echo(as_rows(comparisons, by="candidate", mark_best=True, with_summary=False, background=background))
    else:
        typer.echo(as_table(comparisons[0], background))
    sentences = [sentence for comparison in comparisons for sentence in missed(comparison, most, least)]
    for sentence in missing + failures + sentences:
        report(sentence)
    if failures:
        raise typer.Exit(1)
    if sentences:
        raise typer.Exit(MISSED)


def _pairs(reference: Path, candidate: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Images of two folders with the same name, whatever the ending; and a sentence for each without partner."""
    from srcli.io.discover import find_images

    def named(folder: Path) -> dict[Path, Path]:
        names: dict[Path, Path] = {}
        for path in find_images(folder):
            name = path.relative_to(folder).with_suffix("")
            if name in names:
                raise SrcliError(f"{names[name]} and {path} have the same name, so their partner is unclear. Move one of them.")
            names[name] = path
        return names

    ours, theirs = named(reference), named(candidate)
    missing = [f"{path} has no partner in {candidate}." for name, path in ours.items() if name not in theirs]
    missing += [f"{path} has no partner in {reference}." for name, path in theirs.items() if name not in ours]
    pairs = [(path, theirs[name]) for name, path in ours.items() if name in theirs]
    if not pairs:
        raise SrcliError(f"No image in {reference} has the name of one in {candidate}. Give two folders with the same names.")
    return pairs, missing


def _draw(
    comparison: Comparison,
    reference: ComparisonImage,
    candidate: ComparisonImage,
    background: str,
    map_file: Path | None,
    html_file: Path | None,
) -> None:
    """Write the heat maps and the page of one comparison, each whole or not at all."""
    color = parse_color(background)
    truth, other = reference.flat(color), candidate.flat(color)
    if map_file:
        from srcli.evaluation.heatmap import sheet

        with atomic_write(map_file) as part:
            sheet(comparison.maps, other).save(part, "PNG")
    if html_file:
        from srcli.evaluation.comparison_page import as_page

        with atomic_write(html_file) as part:
            part.write_text(as_page(comparison, truth, other, background), encoding="utf-8")
