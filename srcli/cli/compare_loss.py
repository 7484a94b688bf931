"""`srcli compare-loss`: a reference image and others in, metrics, maps and a page out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args
from urllib.parse import quote

import typer

from srcli.cli.messages import detail, is_quiet, report
from srcli.cli.options import COMMON, MEMORY, Device, MaxPixels, Panel, Quiet, Verbose, one_of
from srcli.cli.parsing import parse_color, parse_limits
from srcli.config import LAYER_PRESETS, VGG_LAYERS, Distance, LossConfig, Precision, parse_loss
from srcli.core.device import check_device
from srcli.errors import ConfigError, SrcliError, did_you_mean
from srcli.evaluation.formatting import LEARNED
from srcli.io.atomic import atomic_write, check_writable, exists, write_text
from srcli.io.discover import find_images, source_stem

if TYPE_CHECKING:
    import numpy as np

    from srcli.evaluation.compare import Comparison
    from srcli.evaluation.comparison_page import IndexEntry

Group = tuple[Path, list[Path]]
"""A reference and the images to compare with it."""

MISSED_LIMIT = 3
"""Exit code if a limit of --max or --min is missed."""

TRAINING_ONLY = {
    "texture": "compares windows of a crop",
    "grid": "depends on the scale of a generator",
    "frequency": "covers a whole crop",
    "consistency": "depends on the scale of a generator",
    "peak": "depends on the scale of a generator",
    "adversarial": "needs the discriminator of a training run",
}
"""Loss terms that are not defined for whole images, and why."""


IMAGES = Panel("Images")
LOSS = Panel("Loss")

EXAMPLES = """
srcli compare-loss original.png upscaled.png
srcli compare-loss originals results --html index.html
srcli compare-loss original.png a.png b.png --crop-border 4 --json
"""


def compare_loss(
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="The reference image, or a folder of them.")],
    candidates: Annotated[list[Path], typer.Argument(metavar="CANDIDATE", help="Images to compare with it, or one folder.")],
    json: Annotated[bool, COMMON.flag("--json", help="Print one JSON document at full precision.")] = False,
    csv: Annotated[bool, COMMON.flag("--csv", help="Print CSV at full precision.")] = False,
    html_file: Annotated[
        Path | None,
        COMMON.option(
            "--html",
            metavar="FILE",
            help="Write an HTML page with a slider and heat maps. For two folders: an index, worst pairs first.",
        ),
    ] = None,
    map_file: Annotated[
        Path | None,
        COMMON.option(
            "--map",
            metavar="FILE",
            help="Write heat maps of the differences (PNG). For two folders: a folder for them.",
        ),
    ] = None,
    overwrite: Annotated[bool, COMMON.flag("--overwrite", help="Replace existing map and page files.")] = False,
    crop_border: Annotated[
        int, COMMON.option("--crop-border", metavar="N", help="Crop N pixels from each side first, as published results do.")
    ] = 0,
    luma: Annotated[bool, COMMON.flag("--luma", help="PSNR and SSIM on luma only, as in published results.")] = False,
    at_most: Annotated[
        list[str] | None,
        COMMON.option("--max", metavar="METRIC=X", help="Exit with code 3 if a metric is larger, as in total=0.02."),
    ] = None,
    at_least: Annotated[
        list[str] | None,
        COMMON.option("--min", metavar="METRIC=X", help="Exit with code 3 if a metric is smaller, as in psnr=30."),
    ] = None,
    device: Device = "auto",
    resize_to: Annotated[
        str | None,
        IMAGES.option(
            "--resize-to",
            metavar="WHICH",
            help="Resize all images to the size of the reference or the candidate.",
            autocompletion=one_of("reference", "candidate"),
        ),
    ] = None,
    crop_to_common: Annotated[
        bool, IMAGES.flag("--crop-to-common", help="Crop to the largest common size, at the right and at the bottom.")
    ] = False,
    background: Annotated[
        str, IMAGES.option("--background", metavar="COLOR", help="Behind transparency: white, black, gray or #rrggbb.")
    ] = "white",
    allow_missing: Annotated[
        bool, IMAGES.flag("--allow-missing", help="Skip images without a counterpart in the other folder.")
    ] = False,
    baseline: Annotated[
        str | None,
        IMAGES.option("--baseline", metavar="bicubic", help="Compare bicubic interpolation of --small as well."),
    ] = None,
    small: Annotated[Path | None, IMAGES.option("--small", metavar="FILE", help="The small image that was upscaled.")] = None,
    lr: Annotated[Path | None, typer.Option("--lr", hidden=True)] = None,
    loss: Annotated[
        str,
        LOSS.option("--loss", metavar="TERMS", help="Terms of the total with weights; see srcli losses."),
    ] = "pixel=1,feature=1",
    layers: Annotated[
        str,
        LOSS.option(
            "--layers",
            metavar="LAYERS",
            help="VGG16 layers of the feature loss, such as relu2_2=0.5,relu4_3, or first23, johnson, gatys, all.",
            autocompletion=one_of(*LAYER_PRESETS, *VGG_LAYERS),
        ),
    ] = "first23",
    distance: Annotated[
        str,
        LOSS.option(
            "--distance",
            metavar="WHICH",
            help="Distance of features: squared or absolute.",
            autocompletion=one_of(*get_args(Distance)),
        ),
    ] = "squared",
    vgg: Annotated[
        str, LOSS.option("--vgg", metavar="FILE", help="VGG16 weights: oxford, imagenet1k-v1, or a .pth or .safetensors file.")
    ] = "oxford",
    metrics: Annotated[
        str | None,
        LOSS.option(
            "--metrics", metavar="NAMES", help="Also compute lpips or dists, or both: lpips,dists. Needs torchmetrics."
        ),
    ] = None,
    precision: Annotated[
        str,
        MEMORY.option(
            "--precision",
            metavar="WHICH",
            help="Of VGG16: auto (float32), fp32, bf16 or fp16.",
            autocompletion=one_of(*get_args(Precision)),
        ),
    ] = "auto",
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure how much images differ from a reference.

    The metrics are the losses that srcli train minimizes, PSNR and SSIM. Two folders are paired by file name.
    docs/compare-loss.md explains the metrics.
    """
    config = parse_loss(loss, layers, distance)
    color = parse_color(background)
    learned = [word.strip() for word in metrics.split(",")] if metrics else []
    for word in learned:
        if word not in LEARNED:
            raise ConfigError(f"There is no metric {word!r} for --metrics. {did_you_mean(word, LEARNED)}")
    most, least = parse_limits(at_most or [], config, learned), parse_limits(at_least or [], config, learned)
    folders = reference.is_dir()
    if lr is not None:
        report("--lr is now called --small; the old name will be removed in the next version.")
        small = small or lr
    _check_terms(config)
    if json and csv:
        raise ConfigError("--json and --csv exclude each other. Choose one.")
    if resize_to not in (None, "reference", "candidate"):
        raise ConfigError(f"--resize-to is {resize_to!r}; choose reference or candidate.")
    if resize_to and crop_to_common:
        raise ConfigError("--resize-to and --crop-to-common exclude each other. Choose one.")
    if baseline not in (None, "bicubic"):
        raise ConfigError(f"Unknown baseline {baseline!r}; the only supported value is bicubic.")
    if (baseline is None) != (small is None):
        raise ConfigError("--baseline bicubic and --small FILE must be given together.")
    if precision not in get_args(Precision):
        raise ConfigError(f"--precision is {precision!r}; choose one of {', '.join(get_args(Precision))}.")
    if crop_border < 0:
        raise ConfigError(f"--crop-border is {crop_border}; it must be at least 0.")
    if folders and (len(candidates) > 1 or not candidates[0].is_dir()):
        raise ConfigError(f"{reference} is a folder, so the only candidate must be a folder as well.")
    if (map_file or html_file) and len(candidates) > 1:
        raise ConfigError("--map and --html take one candidate, or two folders.")
    check_device(device)
    drawing = _Drawing(map_file, html_file, background, folders=folders, overwrite=overwrite)
    drawing.check()
    pairs, missing = _pairs(reference, candidates[0]) if folders else ([(reference, path) for path in candidates], [])
    if missing and not allow_missing:
        raise SrcliError("\nsrcli: ".join(missing) + " Use `allow_missing` to compare the others.")
    groups = [(first, [second]) for first, second in pairs] if folders else [(reference, candidates)]

    from srcli.evaluation.compare import Comparer
    from srcli.evaluation.images import bicubic_to, bicubic_yardstick, cropped, match_sizes, read_comparison_image

    comparer = Comparer(config, vgg, device, precision, learned)  # type: ignore[arg-type]
    comparisons: list[Comparison] = []
    yardstick: Comparison | None = None
    failures: list[str] = []
    for first, group in _with_progress(groups):
        begin = time.perf_counter()
        try:
            truth = read_comparison_image(first, max_pixels)
            others = [read_comparison_image(path, max_pixels) for path in group]
            if small:
                others.append(bicubic_to(read_comparison_image(small, max_pixels), truth))
            if resize_to or crop_to_common:
                truth, others = match_sizes(truth, others, resize_to)
            with_yardstick = not (folders or json or csv) and len(others) == 1
            if with_yardstick:
                others.append(bicubic_yardstick(truth))
            found = comparer.compare(truth, others, background=color, maps=drawing.wanted, crop_border=crop_border, luma=luma)
            yardstick = found.pop() if with_yardstick else None
            if drawing.wanted:
                shown = [cropped(image, crop_border).flat(color) for image in (truth, others[0])]
                drawing.draw(found[0], first.relative_to(reference) if folders else None, *shown)
            detail(f"{first}: compared on {comparer.device} in {time.perf_counter() - begin:.1f} s.")
            comparisons += [replace(comparison, maps={}) for comparison in found]
        except SrcliError as error:
            if not folders:
                raise
            sentence = str(error) if first.name in str(error) else f"{first}: {error}"
            failures.append(sentence)  # a bad image does not stop the comparison of folders
    if not comparisons:
        raise SrcliError("\nsrcli: ".join(failures))
    drawing.finish()
    print(_formatted(comparisons, yardstick, background, folders=folders, json=json, csv=csv))
    _exit(missing, failures, _missed_limits(comparisons, most, least))


def _with_progress(groups: Sequence[Group]) -> Iterable[Group]:
    """The groups, with a progress bar on a terminal if there are several."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True, quiet=is_quiet())
    disabled = len(groups) == 1 or not console.is_terminal
    return track(groups, "Comparing", console=console, transient=True, disable=disabled)


def _formatted(
    comparisons: Sequence[Comparison], yardstick: Comparison | None, background: str, *, folders: bool, json: bool, csv: bool
) -> str:
    from srcli.evaluation.formatting import as_csv, as_json, as_rows, as_table

    if json:
        return as_json(comparisons, background=background, with_summary=folders)
    if csv:
        return as_csv(comparisons)
    if folders:
        return as_rows(comparisons, by="reference", mark_best=False, with_summary=True, background=background)
    if len(comparisons) > 1:
        return as_rows(comparisons, by="candidate", mark_best=True, with_summary=False, background=background)
    return as_table(comparisons[0], background, yardstick)


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
    """Images of two folders with the same name, and a sentence for each without a counterpart.

    The extension does not matter, nor a suffix of `srcli upscale`, such as _x4, that only one of the two has.
    """
    ours, theirs = _by_name(reference), _by_name(candidate)
    renamed = {name: _without_suffix(name) for name in ours.keys() ^ theirs.keys()}
    free = (ours.keys() | theirs.keys()) - (ours.keys() & theirs.keys())
    pairs = [(path, theirs[name]) for name, path in ours.items() if name in theirs]
    for name in sorted(free & ours.keys()):
        other = next((its for its in sorted(free & theirs.keys()) if name in (its, renamed[its]) or its == renamed[name]), None)
        if other is not None:
            pairs.append((ours[name], theirs[other]))
            free -= {name, other}
    missing = [f"{ours[name]} has no counterpart in {candidate}." for name in sorted(free & ours.keys())]
    missing += [f"{theirs[name]} has no counterpart in {reference}." for name in sorted(free & theirs.keys())]
    if not pairs:
        raise SrcliError(f"No image in {reference} has the name of one in {candidate}. Give two folders with the same names.")
    return sorted(pairs), missing


def _without_suffix(name: Path) -> Path:
    return name.with_name(source_stem(name.name) or name.name)


def _by_name(folder: Path) -> dict[Path, Path]:
    """The images of a folder by their path in it, without extension."""
    names: dict[Path, Path] = {}
    for path in find_images(folder):
        name = path.relative_to(folder).with_suffix("")
        if name in names:
            raise SrcliError(f"{names[name]} and {path} have the same name, so pairs would be ambiguous. Move one of them.")
        names[name] = path
    return names


class _Drawing:
    """Writes maps and pages of one pair, or of the pairs of two folders."""

    def __init__(self, maps: Path | None, page: Path | None, background: str, *, folders: bool, overwrite: bool) -> None:
        self.maps, self.page, self.background, self.folders, self.overwrite = maps, page, background, folders, overwrite
        self.entries: list[IndexEntry] = []

    @property
    def wanted(self) -> bool:
        return bool(self.maps or self.page)

    def check(self) -> None:
        """Raise SrcliError before the work if nothing could be written after it."""
        if self.page:
            check_writable(self.page, overwrite=self.overwrite)
        if self.maps and self.folders and exists(self.maps) and not self.maps.is_dir():
            raise SrcliError(f"{self.maps} is a file. For two folders, `map` is a folder.")
        if self.maps and not self.folders:
            check_writable(self.maps, overwrite=self.overwrite)

    def draw(self, comparison: Comparison, name: Path | None, reference: np.ndarray, candidate: np.ndarray) -> None:
        """Write the files of a pair. name: of the pair, if there are several. Images: H x W x 3 uint8."""
        if self.maps:
            from srcli.evaluation.heatmap import sheet

            path = self.maps / name.with_suffix(".png") if name else self.maps
            with atomic_write(path, overwrite=self.overwrite) as part:
                sheet(comparison.maps, candidate).save(part, "PNG")
        if self.page:
            from srcli.evaluation.comparison_page import IndexEntry, as_page

            path = self.page.with_suffix("") / f"{name}.html" if name else self.page
            write_text(path, as_page(comparison, reference, candidate, self.background), overwrite=self.overwrite)
            if name:
                link = quote(path.relative_to(self.page.parent).as_posix(), errors="surrogateescape")
                self.entries.append(IndexEntry.of(comparison, link, reference, candidate))

    def finish(self) -> None:
        """Write the index of the pages."""
        if self.page and self.entries:
            from srcli.evaluation.comparison_page import as_index

            write_text(self.page, as_index(self.entries, self.background), overwrite=self.overwrite)
