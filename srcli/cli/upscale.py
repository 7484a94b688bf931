"""`srcli upscale`: images in, larger images out."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from json import dumps
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srcli.cli.messages import report
from srcli.cli.parsing import parse_color
from srcli.errors import ConfigError, SrcliError

if TYPE_CHECKING:
    from srcli.inference.backend import Model
    from srcli.inference.batch import BatchUpscaler, UpscaleResult
    from srcli.inference.plan import Job

FORMATS = ("png", "jpg", "webp", "tif", "avif")
MAX_PIXELS = 1_000_000_000
"""More in one file is nearly always a file that was made to fill the disk, or a day's work by mistake."""
LARGEST_SCALE = 64
MOST_COMPARED = 50
"""Images on one page, which holds them all and is to be opened at once: 2 MB a large image."""


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
            help="File for one image, else a folder; - for stdout. [default: NAME_x4.EXT beside the input]",
        ),
    ] = None,
    scale: Annotated[
        float | None, typer.Option("--scale", help="How many times larger, as in 2 or 2.5. [default: the model's, else 4]")
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", metavar="WxH", help="Size of the result: 1920x1080, 1920x or x1080.")
    ] = None,
    fit: Annotated[bool, typer.Option("--fit", help="Keep the proportions, within --size.")] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "-m", "--model", metavar="NAME|FILE", help="A shipped model or a model file. [default: by --quality and the scale]"
        ),
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(
            "--quality",
            help="fast (in 8 bits), balanced or best (8 bits, in eight positions, a larger model at x4). [default: balanced]",
            show_default=False,
        ),
    ] = None,
    perceptual: Annotated[
        float | None,
        typer.Option(
            "--naturalness",
            metavar="0..1",
            help="From true to the image to sharper, may invent detail. [default: 0]",
            show_default=False,
        ),
    ] = None,
    photo: Annotated[
        bool, typer.Option("--photo", help="Take noise, JPEG blocks and slight blur away: for images that have them.")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    recursive: Annotated[bool, typer.Option("-r", "--recursive", help="Take the folders below a folder, too.")] = False,
    ending: Annotated[
        str | None,
        typer.Option("--format", metavar="EXT", help="png, jpg, webp, tif or avif. [default: the input's]"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that are there already.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave results that are there, whole and of the right size.")
    ] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="End at the first image that fails.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each image.")] = False,
    tile: Annotated[
        int | None,
        typer.Option(
            "--tile", help="Side of a tile in pixels of the input; 0 for none. [default: what fits]", show_default=False
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory", metavar="SIZE", help="Memory to plan with, as in 800M. [default: half of what is free, at most 2G]"
        ),
    ] = None,
    max_pixels: Annotated[int, typer.Option("--max-pixels", help="Refuse images with more pixels than this.")] = MAX_PIXELS,
    frame: Annotated[
        int | None, typer.Option("--frame", metavar="K", help="Which frame of an animation or page of a file, from 1.")
    ] = None,
    background: Annotated[
        str, typer.Option("--background", help="What shows through in JPEG: white, black, gray or #rrggbb.")
    ] = "white",
    strip_metadata: Annotated[
        bool, typer.Option("--strip-metadata", help="Drop EXIF, XMP and profile; colors become sRGB.")
    ] = False,
    compare: Annotated[
        Path | None,
        typer.Option(
            "--compare", metavar="PAGE", help="Write an HTML page: each image by bicubic and by srcli, under a slider."
        ),
    ] = None,
) -> None:
    """Upscale images. Prints the name of each result.

    PNG, JPEG, WebP, TIFF and AVIF in and out; 16 bits, gray, transparency, color profile and EXIF stay.
    """
    if scale is not None and not 1 < scale <= LARGEST_SCALE:
        raise ConfigError(f"There is no scale {scale:g}; choose more than 1, at most {LARGEST_SCALE}.")
    if scale is not None and size is not None:
        raise ConfigError("--scale and --size both say how large. Choose one.")
    if model is not None and not (quality is None and perceptual is None and not photo):
        raise ConfigError("--model chooses a model, and so do --quality, --naturalness and --photo. Leave one of them out.")
    if fit and size is None:
        raise ConfigError("--fit needs a --size to fit into.")
    if tile is not None and tile != 0 and tile < 16:
        raise ConfigError(f"A tile of {tile} pixels is too small; use at least 16, or 0 for the whole image at once.")
    if overwrite and skip_existing:
        raise ConfigError("--overwrite and --skip-existing contradict each other. Choose one.")
    if ending is not None and ending.lower().lstrip(".") not in FORMATS:
        raise ConfigError(f"There is no format {ending!r}. Choose one of {', '.join(FORMATS)}.")
    if max_pixels < 1:
        raise ConfigError(f"--max-pixels is {max_pixels}; it must be at least 1.")
    if compare is not None and compare.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--compare writes a page, and {compare} is no name of one; let it end in .html.")
    color = tuple(round(part * 255) for part in parse_color(background))

    from srcli.inference.batch import BatchUpscaler, UpscaleOptions
    from srcli.inference.memory import bytes_of
    from srcli.inference.plan import Size, parse_size, plan
    from srcli.inference.tiling import plan_tiling
    from srcli.models.registry import select_models

    models = (
        _models(model)
        if model is not None
        else select_models(quality=quality or "balanced", perceptual=perceptual or 0, photo=photo)
    )
    # what a natural model makes is not what it was trained to upscale
    before = select_models(quality=quality or "balanced") if perceptual else ()
    wanted = parse_size(size, fit=fit) if size else Size(scale=scale or (models[0].scale if model else 4))
    result_ending = f".{ending.lower().lstrip('.')}" if ending else None
    order = UpscaleOptions(
        size=wanted,
        models=models,
        before=before,
        tiling=plan_tiling(tile, bytes_of(memory) if memory else None),
        device=device,
        ending=result_ending,
        overwrite=overwrite,
        skip_existing=skip_existing,
        dry_run=dry_run,
        frame=frame,
        max_pixels=max_pixels,
        strip_metadata=strip_metadata,
        background=(color[0], color[1], color[2]),
        views=MOST_COMPARED if compare else 0,
    )
    jobs = plan(inputs, output, wanted, ending=result_ending, recursive=recursive)
    if compare and not dry_run:
        _check_page(compare, jobs, overwrite=overwrite)
    _run(BatchUpscaler(order), jobs, json=json, fail_fast=fail_fast, page=compare)


def _check_page(page: Path, jobs: Sequence[Job], *, overwrite: bool) -> None:
    """Raises SrcliError now where the page could not be written after the work."""
    from srcli.io.atomic import check_writable, remove_stale_temp_files

    if page.resolve() in {path.resolve() for job in jobs for path in (job.source, job.target)}:
        raise SrcliError(f"{page} is one of the images. Give the page another name.")
    check_writable(page, overwrite=overwrite)
    remove_stale_temp_files([page])


def _models(name: str) -> Sequence[Model]:
    from srcli.models.registry import describe_model, is_third_party

    if not is_third_party(name):
        return [describe_model(name)]
    from srcli.inference.third_party import load_third_party  # here, as torch takes seconds to import

    foreign = load_third_party(Path(name))
    report(f"{foreign.note}")
    return [foreign]


def _run(batch: BatchUpscaler, jobs: list[Job], *, json: bool, fail_fast: bool, page: Path | None) -> None:
    """Do the jobs and say what became of each; all failures stand at the end. page: where to show what became of them."""
    failures: list[str] = []
    shown: list[UpscaleResult] = []
    done = skipped = 0
    interrupted = False
    with _terminated_as_interrupted(), _Screen(len(jobs)) as screen:
        batch.listener.on_start, batch.listener.on_pixels, batch.listener.on_note = screen.start, screen.advance, screen.note
        outcomes = batch.run(jobs)
        try:
            for outcome in outcomes:
                screen.finish(outcome.job)
                for note in outcome.notes:
                    screen.note(note)
                done += not outcome.error
                skipped += outcome.skipped
                if outcome.views:
                    shown.append(outcome)
                if outcome.error:
                    failures.append(outcome.error)
                if json:
                    screen.result(dumps(_record(outcome)))
                elif not (outcome.error or outcome.skipped or str(outcome.job.target) == "-" or batch.order.dry_run):
                    screen.result(str(outcome.job.target))
                if outcome.error and fail_fast:
                    break
        except KeyboardInterrupt:
            interrupted = True
            screen.note("interrupted; the images at work are left as they were. Go on with --skip-existing.")
        finally:
            outcomes.close()  # type: ignore[attr-defined]
    if page and shown and not interrupted:
        _write_page(page, shown, left_out=done - len(shown), overwrite=batch.order.overwrite)
    if skipped:
        report(f"{skipped} {'was' if skipped == 1 else 'were'} there already.")
    for failure in failures:
        report(failure)
    if interrupted:
        raise typer.Exit(130)
    if failures:
        raise typer.Exit(1)


def _write_page(path: Path, outcomes: Sequence[UpscaleResult], *, left_out: int, overwrite: bool) -> None:
    from srcli.evaluation.upscale_page import UpscaledImage, as_page
    from srcli.io.atomic import atomic_write

    upscaled_images = [
        UpscaledImage(
            "stdin" if str(outcome.job.source) == "-" else str(outcome.job.source),
            "stdout" if str(outcome.job.target) == "-" else str(outcome.job.target),
            outcome.lr or (0, 0),
            outcome.sr or (0, 0),
            "which was there already"
            if outcome.skipped
            else f"by {', '.join(outcome.models)} on {outcome.device} in {outcome.seconds:.1f} s",
            outcome.views,
        )
        for outcome in outcomes
    ]
    with atomic_write(path, overwrite=overwrite) as part:
        part.write_text(as_page(upscaled_images, left_out=left_out), encoding="utf-8")
    report(f"{path} shows {len(outcomes)} before and after.")


def _record(outcome: UpscaleResult) -> dict[str, Any]:
    return {
        "input": str(outcome.job.source),
        "output": str(outcome.job.target),
        "lr": outcome.lr,
        "sr": outcome.sr,
        "models": outcome.models,
        "device": outcome.device,
        "seconds": outcome.seconds,
        "skipped": outcome.skipped,
        "notes": outcome.notes,
        "error": outcome.error,
    }


class _Screen:
    """Lines on stdout and stderr, and on a terminal a bar for the files and one for each image at work."""

    def __init__(self, files: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self.quiet = not console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            console=console,
            disable=self.quiet,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._files = self._bars.add_task(f"{files} images", total=files, visible=files > 1)
        self._tasks: dict[Job, Any] = {}
        self._turn = Lock()  # notes come from several threads

    def __enter__(self) -> _Screen:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def start(self, job: Job, pixels: int) -> None:
        if not self.quiet:
            self._tasks[job] = self._bars.add_task(job.source.name, total=pixels)

    def advance(self, job: Job, pixels: int) -> None:
        if not self.quiet:
            self._bars.advance(self._tasks[job], pixels)

    def finish(self, job: Job) -> None:
        self._bars.advance(self._files)
        if job in self._tasks:
            self._bars.remove_task(self._tasks.pop(job))

    def note(self, sentence: str) -> None:
        self._say(lambda: report(sentence))

    def result(self, line: str) -> None:
        self._say(lambda: typer.echo(line))

    def _say(self, say: Callable[[], None]) -> None:
        """Without the bars, so that they and the lines do not mix where both go to one terminal."""
        with self._turn:
            if self.quiet:
                say()
                return
            self._bars.stop()
            say()
            self._bars.start()


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends the work as Ctrl-C does: nothing half-written stays."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread, where nobody can be told
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
