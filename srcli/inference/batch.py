"""Upscaling a batch of image files, a few at a time, from decoding to encoding."""

from __future__ import annotations

import logging
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING

from srcli.errors import SrcliError, unexpected
from srcli.inference.backend import Backend, Helpers, load_model
from srcli.inference.denoise import estimate_denoise
from srcli.inference.memory import release_freed_memory
from srcli.inference.plan import STDIO, Job, Size, model_chain
from srcli.inference.previews import Preview, PreviewPair
from srcli.inference.tiling import TilePlanner
from srcli.inference.upscale import upscale_rows
from srcli.io.animation import FrameRows, TallRows
from srcli.io.atomic import exists, remove_stale_temp_files
from srcli.io.files import copy_dates
from srcli.io.formats import SaveOptions, extension_of_loader
from srcli.io.image import RowReader
from srcli.io.read import ImageReader, is_complete, open_image
from srcli.io.write import check_target, resampled_rows, write_rows

if TYPE_CHECKING:
    from srcli.inference.backend import Model

logger = logging.getLogger(__name__)

WORKERS = 3
"""Images at a time: while one or two are upscaled, the next is decoded or the last one encoded."""

LARGE = 2**26
"""Size of a result in bytes from which on only one such image is in memory at a time."""


@dataclass(frozen=True)
class UpscaleOptions:
    """What to do with every image.

    models: those to choose from, of different scales. first_models: those for all passes but the last, if they differ.
    models_by_denoise: both of these for each level of `srcli.inference.denoise`, if images are to be denoised as they need it.
    in_place: replace images by their results where both are the same file.
    extension: of the format for stdout. min_side: leave images alone whose shorter side has at least this many pixels.
    skip_large: leave images alone that already have the requested size. previews: of how many images, from the first on, to
    keep previews for a page.
    """

    size: Size
    models: Sequence[Model]
    tiling: TilePlanner
    first_models: Sequence[Model] = ()
    models_by_denoise: Mapping[float, tuple[Sequence[Model], Sequence[Model]]] = field(default_factory=dict)
    device: str = "auto"
    extension: str | None = None
    overwrite: bool = False
    in_place: bool = False
    skip_existing: bool = False
    dry_run: bool = False
    frame: int | None = None
    max_pixels: int | None = None
    strip_metadata: bool = False
    allow_truncated: bool = False
    keep_dates: bool = False
    background: tuple[int, int, int] = (255, 255, 255)
    save: SaveOptions = field(default_factory=SaveOptions)
    previews: int = 0
    min_side: int | None = None
    skip_large: bool = False

    @property
    def all_models(self) -> list[Model]:
        """Each model that may be needed, some of them more than once."""
        choices = [(self.models, self.first_models), *self.models_by_denoise.values()]
        return [model for choice in choices for models in choice for model in models]


@dataclass(frozen=True)
class UpscaleResult:
    """The result of a job.

    lr, sr: width and height of the image and of the result. denoise: the level chosen for the image, None if none was chosen.
    skipped: the result existed, or the image is `large` enough.
    error: why the job failed. notes: sentences for the user. previews: the whole image first; empty if not asked for.
    """

    job: Job
    lr: tuple[int, int] | None = None
    sr: tuple[int, int] | None = None
    models: tuple[str, ...] = ()
    denoise: float | None = None
    device: str | None = None
    seconds: float = 0
    skipped: bool = False
    large: bool = False
    error: str | None = None
    notes: tuple[str, ...] = ()
    previews: tuple[PreviewPair, ...] = ()


def _ignore(*_: object) -> None: ...


@dataclass(frozen=True)
class ProgressCallbacks:
    """Called while the batch runs, from several threads."""

    on_start: Callable[[Job, int], None] = _ignore
    """The job, and the number of lr pixels that its networks will process."""
    on_pixels: Callable[[Job, int], None] = _ignore
    """The job, and the number of lr pixels processed since the last call."""
    on_note: Callable[[str], None] = _ignore
    """A sentence for the user."""


class Cancelled(Exception):
    """The batch has ended, so this image is left as it was."""


class _ModelLoadError(Exception):
    """The model cannot be loaded on this device, so no image can be upscaled."""

    def __init__(self, reason: SrcliError) -> None:
        self.reason = reason


class BatchUpscaler:
    """Upscales a batch of images with the same options."""

    def __init__(
        self,
        options: UpscaleOptions,
        callbacks: ProgressCallbacks = ProgressCallbacks(),
    ) -> None:
        self.options = options
        self.callbacks = callbacks
        self._stop = Event()
        self._loading, self._large = Lock(), Lock()
        self._backends: dict[int, Backend] = {}  # by the identity of their models
        self._with_previews: set[Job] = set()
        self._first_with_level: dict[float, Job] = {}

    def run(self, jobs: Sequence[Job]) -> Iterator[UpscaleResult]:
        """The results in the order of the jobs. Closing the iterator stops the work and removes incomplete files.

        Raises SrcliError if no image can be upscaled: the device is missing or the model damaged.
        """
        self.options.tiling.on_halved = lambda side: self.callbacks.on_note(
            f"Out of memory; continuing with tiles of {side} pixels."
        )
        if not self.options.dry_run:
            self._with_previews = set([job for job in jobs if not job.error][: self.options.previews])
            remove_stale_temp_files(job.target for job in jobs if job.target != STDIO)
        pool = ThreadPoolExecutor(WORKERS)
        try:
            futures: list[Future[UpscaleResult]] = [pool.submit(self.upscale, job) for job in jobs]
            for place, future in enumerate(futures):
                while not wait([future], timeout=0.5).done:  # waking up lets Ctrl-C through on every system
                    pass
                yield future.result()
                futures[place] = Future()  # frees the result, of which there may be many thousands
        finally:
            self.stop()
            pool.shutdown(cancel_futures=True)

    def stop(self) -> None:
        """End the images in progress, and leave no incomplete file."""
        self._stop.set()

    def upscale(self, job: Job, helpers: Helpers | None = None) -> UpscaleResult:
        """The result of one job. May be called from several threads at once.

        Raises SrcliError if no image can be upscaled, and Cancelled after `stop`.
        """
        if job.error:
            return UpscaleResult(job, error=job.error)
        begin = time.perf_counter()
        try:
            result = self._upscale(job, helpers)
        except SrcliError as error:
            result = UpscaleResult(job, error=str(error))
        except MemoryError:
            result = UpscaleResult(job, error=f"There is not enough memory for {job.source}. Close other programs.")
        except OSError as error:
            result = UpscaleResult(job, error=f"Cannot upscale {job.source}: {error.strerror or error}.")
        except _ModelLoadError as failure:
            raise failure.reason from None
        except Cancelled:
            raise
        except Exception as error:
            logger.debug("Traceback of the failure of %s:", job.source, exc_info=True)
            result = UpscaleResult(job, error=f"Cannot upscale {job.source}: {unexpected(error)}")
        return replace(result, seconds=round(time.perf_counter() - begin, 3))

    def _upscale(self, job: Job, helpers: Helpers | None) -> UpscaleResult:
        options = self.options
        source = _read_stdin() if job.source == STDIO else job.source
        image = open_image(
            source,
            frame=options.frame,
            max_pixels=options.max_pixels,
            srgb=options.strip_metadata,
            find_damage=True,
            allow_truncated=options.allow_truncated,
            all_frames=True,
        )
        lr = image.width, image.frame_height
        frames = image.animation.frames if image.animation else 1
        sr = options.size.of(*lr)
        if min(lr) >= (options.min_side or math.inf) or (options.skip_large and _factor(lr, sr) <= 1):
            return UpscaleResult(job, lr, skipped=True, large=True)
        overwrite = options.overwrite or (options.in_place and _same_file(job.source, job.target))
        existing = job.target != STDIO and exists(job.target) and not overwrite
        chosen = bool(options.models_by_denoise) and not existing and _factor(lr, sr) > 1
        denoise = self._denoise(job, source) if chosen else None
        chain = self._chain(job, lr, sr, denoise)
        result = UpscaleResult(job, lr, sr, tuple(model.name for model in chain), denoise)
        check_target(_named(job, image, options.extension), *sr, options.save, image.animation)
        notes: list[str] = []
        if existing:
            if not (options.skip_existing or job.may_exist):
                raise SrcliError(
                    f"{job.target} already exists, so {job.source} was not upscaled. Use `overwrite` to replace it."
                )
            complete = is_complete(job.target, *sr, frames=frames)
            if complete:
                preview = self._preview(job, source, sr, image)
                return replace(result, skipped=True, previews=preview.with_result(job.target) if preview else ())
            what = "with another size" if complete is None else "but is not a complete image"
            raise SrcliError(
                f"{job.target} already exists {what} ({sr[0]}x{sr[1]} was expected). Move it, or use `overwrite` to replace it."
            )
        self._announce(job, lr, sr, chain)
        if options.dry_run:
            return replace(result, notes=tuple(notes))
        backends = [self.backend(model) for model in chain]
        at_once = 1
        if helpers and lr[0] * lr[1] >= helpers.least_pixels:
            backends = [helpers.join(*pair) for pair in zip(backends, self._places(chain), strict=True)]
            at_once = helpers.at_once
        pixels = [lr[0] * lr[1] * prod(model.scale for model in chain[:number]) ** 2 for number in range(len(chain))]
        preview = self._preview(job, source, sr, image)
        previews: list[PreviewPair] = []
        self.callbacks.on_start(job, sum(pixels) * frames)
        large = pixels[-1] * chain[-1].scale ** 2 * image.channels * image.dtype.itemsize > LARGE
        if large:
            release_freed_memory()
        with self._large if large else nullcontext():

            def upscaled() -> RowReader:
                """The rows of the image, or of its next frame."""
                return upscale_rows(
                    backends,
                    FrameRows(image, image.frame_height) if image.animation else image,
                    profile=image.profile,
                    tiling=options.tiling,
                    dtype=options.save.dtype(image.dtype),
                    on_pixels=lambda count: self._on_pixels(job, count),
                    at_once=at_once,
                )

            # each frame is resampled for itself
            rows = TallRows(lambda: resampled_rows(upscaled(), *sr), frames) if image.animation else upscaled()

            def write(target: Path) -> list[str]:
                lost = write_rows(
                    rows,
                    target,
                    metadata=image.metadata,
                    size=None if image.animation else sr,
                    animation=image.animation,
                    overwrite=overwrite,
                    background=options.background,
                    options=options.save,
                )
                previews.extend(preview.with_result(target) if preview else ())  # now, as stdout's file is temporary
                return lost

            lost = _to_stdout(_named(job, image, options.extension), write) if job.target == STDIO else write(job.target)
        if options.keep_dates and STDIO not in (job.source, job.target):
            copy_dates(job.source, job.target)
        if image.damage:
            notes.append(f"{image.name} is damaged ({image.damage}); check whether {job.target} is what you want.")
        lost = [*image.lost, *lost]
        if lost:
            notes.append(f"{'stdout' if job.target == STDIO else job.target} does not keep everything: {'; '.join(lost)}.")
        return replace(result, device=backends[0].description, notes=tuple(notes), previews=tuple(previews))

    def _on_pixels(self, job: Job, count: int) -> None:
        """After each tile."""
        if self._stop.is_set():
            raise Cancelled
        self.callbacks.on_pixels(job, count)

    def _preview(self, job: Job, source: Path | bytes, sr: tuple[int, int], image: ImageReader) -> Preview | None:
        """Of the image, or of the first frame of an animation."""
        if job not in self._with_previews:
            return None
        return Preview(source, sr, frame=1 if image.animation else self.options.frame, animated=image.animation is not None)

    def _denoise(self, job: Job, source: Path | bytes) -> float:
        """The level of denoising for an image. Each level is reported once."""
        estimate = estimate_denoise(source, frame=self.options.frame, max_pixels=self.options.max_pixels)
        first = self._first_with_level.setdefault(estimate.level, job)  # in one operation, as there are several threads
        if estimate.level and first is job:
            self.callbacks.on_note(
                f"{job.source} has {estimate.reason}, so `denoise` is {estimate.level:g} for it and others like it. "
                "Set `denoise` to 0 to keep noise and artifacts."
            )
        return estimate.level

    def _chain(self, job: Job, lr: tuple[int, int], sr: tuple[int, int], denoise: float | None) -> list[Model]:
        factor = _factor(lr, sr)
        models, first_models = self.options.models, self.options.first_models
        if denoise is not None:
            models, first_models = self.options.models_by_denoise[denoise]
        if factor < 1 or (factor == 1 and not all(model.restores for model in models)):
            raise SrcliError(
                f"{job.source} is already {lr[0]}x{lr[1]} pixels, so {sr[0]}x{sr[1]} would not upscale it. "
                "Use `skip_large` to leave such images alone."
            )
        return model_chain(models, factor, first_models)

    def _announce(self, job: Job, lr: tuple[int, int], sr: tuple[int, int], chain: Sequence[Model]) -> None:
        """Report the size before the work, unless it is just the model's scale."""
        made = tuple(side * prod(model.scale for model in chain) for side in lr)
        if len(chain) == 1 and made == sr and not self.options.dry_run:
            return
        steps = ", ".join([*(model.name for model in chain), *([] if made == sr else ["downscaled with Lanczos"])])
        sentence = f"{job.source}: {lr[0]}x{lr[1]} becomes {sr[0]}x{sr[1]} ({steps})."
        wide, high = sr[0] / lr[0], sr[1] / lr[1]
        if abs(wide / high - 1) > 0.01 and min(sr) > 1 and self.options.size.scale is None and not self.options.size.fit:
            sentence += " This changes the aspect ratio; `fit` keeps it."
        self.callbacks.on_note(sentence)

    def _places(self, chain: Sequence[Model]) -> list[int]:
        """Of these models in `UpscaleOptions.all_models`."""
        known = [id(model) for model in self.options.all_models]
        return [known.index(id(model)) for model in chain]

    def backend(self, model: Model) -> Backend:
        """Of one of the models of the options, loaded once."""
        with self._loading:  # the model is loaded for the first valid image, and invalid ones do not wait for it
            if self._stop.is_set():
                raise Cancelled
            if id(model) not in self._backends:
                try:
                    backend = self._backends[id(model)] = load_model(model, self.options.device)
                except SrcliError as error:
                    raise _ModelLoadError(error) from None
                if self.options.device == "auto":
                    self.callbacks.on_note(f"{model.name} on {backend.description}.")
            return self._backends[id(model)]


def _factor(lr: tuple[int, int], sr: tuple[int, int]) -> float:
    return max(sr[0] / lr[0], sr[1] / lr[1])


def _read_stdin() -> bytes:
    if sys.stdin is None:  # closed by the program that started this one
        raise SrcliError("stdin is closed. Pipe an image into srcli, or give the name of a file.")
    return sys.stdin.buffer.read()


def _same_file(source: Path, target: Path) -> bool:
    return source != STDIO and target.exists() and source.samefile(target)


def _named(job: Job, image: ImageReader, extension: str | None) -> Path:
    """The file of the result. For stdout a name in the format of the image, or in that of `extension`."""
    return Path(f"stdout{extension or extension_of_loader(image.loader)}") if job.target == STDIO else job.target


def _to_stdout(name: Path, write: Callable[[Path], list[str]]) -> list[str]:
    """Write to a temporary file and copy it to stdout, so that nothing is printed if it fails."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / name
        lost = write(path)
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    return lost
