"""Many images in, many larger images out: which, where to, how large, and what became of each."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING

import numpy as np

from srcli.errors import SrcliError
from srcli.inference.backend import Backend, BackendWrapper, load_model
from srcli.inference.memory import release_freed_memory
from srcli.inference.plan import STDIO, Job, Size, model_chain
from srcli.inference.previews import Preview, PreviewPair
from srcli.inference.tiling import TilePlanner
from srcli.inference.upscale import upscale_rows
from srcli.io.atomic import remove_stale_temp_files
from srcli.io.read import ImageReader, is_whole, open_image
from srcli.io.write import check_target, write_rows

if TYPE_CHECKING:
    from srcli.inference.backend import Model

WORKERS = 3
"""Images at a time: while one or two are upscaled, the next is decoded or the last encoded."""

LARGE = 2**26
"""Bytes of result from which on an image has no other large one beside it in memory."""

REPLACE = "Use --overwrite to replace it."
_ENDINGS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif", "heif": ".avif"}


@dataclass(frozen=True)
class UpscaleOptions:
    """What is to be done with every image.

    models: those to choose from, of different scales; before: those for all passes but the last, if not the same. ending:
    stdout's format. views: of how many images, from the first on, to keep what a page can show.
    """

    size: Size
    models: Sequence[Model]
    tiling: TilePlanner
    before: Sequence[Model] = ()
    device: str = "auto"
    ending: str | None = None
    overwrite: bool = False
    skip_existing: bool = False
    dry_run: bool = False
    frame: int | None = None
    max_pixels: int | None = None
    strip_metadata: bool = False
    background: tuple[int, int, int] = (255, 255, 255)
    views: int = 0


@dataclass(frozen=True)
class UpscaleResult:
    """What became of a job. lr, sr: width and height. error: a sentence, where it failed. notes: sentences to know.

    views: what a page can show of it, the whole first; empty where it was not asked for.
    """

    job: Job
    lr: tuple[int, int] | None = None
    sr: tuple[int, int] | None = None
    models: tuple[str, ...] = ()
    device: str | None = None
    seconds: float = 0
    skipped: bool = False
    error: str | None = None
    notes: tuple[str, ...] = ()
    views: tuple[PreviewPair, ...] = ()


def _ignore(*_: object) -> None: ...


@dataclass
class ProgressCallbacks:
    """Who is told while the work goes on, from several threads. An image is known by its job."""

    on_start: Callable[[Job, int], None] = _ignore
    """The job and the number of lr pixels that its networks will see."""
    on_pixels: Callable[[Job, int], None] = _ignore
    """So many more of them are done."""
    on_note: Callable[[str], None] = _ignore
    """A sentence to be said at once."""


class _Cancelled(Exception):
    """The run is over, so this image is left as it was."""


class _ModelLoadError(Exception):
    """No image can be upscaled with this model on this device."""

    def __init__(self, reason: SrcliError) -> None:
        self.reason = reason


@dataclass
class BatchUpscaler:
    """The work on many images: a few at a time, from decoding to encoding."""

    order: UpscaleOptions
    listener: ProgressCallbacks = field(default_factory=ProgressCallbacks)

    def __post_init__(self) -> None:
        self._stop = Event()
        self._loading, self._large = Lock(), Lock()
        self._backends: dict[int, Backend] = {}  # by the identity of the model
        self._shown: set[Job] = set()

    def run(self, jobs: Sequence[Job]) -> Iterator[UpscaleResult]:
        """The outcomes in the order of the jobs. Leaving early ends the work and removes what is half written.

        Raises SrcliError where no image can be upscaled: no such device, a damaged model.
        """
        self.order.tiling.on_halved = lambda side: self.listener.on_note(
            f"Memory ran out, so the tiles are halved to {side} pixels."
        )
        if not self.order.dry_run:
            self._shown = set([job for job in jobs if not job.error][: self.order.views])
            remove_stale_temp_files(job.target for job in jobs if job.target != STDIO)
        pool = ThreadPoolExecutor(WORKERS)
        try:
            futures: list[Future[UpscaleResult]] = [pool.submit(self._outcome, job) for job in jobs]
            for place, future in enumerate(futures):
                while not wait([future], timeout=0.5).done:  # wakes up, so that Ctrl-C is heard on every system
                    pass
                yield future.result()
                futures[place] = Future()  # forget it: there may be many thousands
        except _ModelLoadError as failure:
            raise failure.reason from None
        finally:
            self._stop.set()
            pool.shutdown(cancel_futures=True)

    def _outcome(self, job: Job) -> UpscaleResult:
        if job.error:
            return UpscaleResult(job, error=job.error)
        begin = time.perf_counter()
        try:
            outcome = self._upscale(job)
        except SrcliError as error:
            outcome = UpscaleResult(job, error=str(error))
        except MemoryError:
            outcome = UpscaleResult(job, error=f"There is not enough memory for {job.source}. Close other programs.")
        return replace(outcome, seconds=round(time.perf_counter() - begin, 3))

    def _upscale(self, job: Job) -> UpscaleResult:
        order = self.order
        source = sys.stdin.buffer.read() if job.source == STDIO else job.source
        image = open_image(source, frame=order.frame, max_pixels=order.max_pixels, srgb=order.strip_metadata, find_damage=True)
        lr = image.width, image.height
        sr = order.size.of(*lr)
        chain = self._chain(job, lr, sr)
        outcome = UpscaleResult(job, lr, sr, tuple(model.name for model in chain))
        check_target(Path("stdout.png") if job.target == STDIO else job.target, *sr)
        notes: list[str] = []
        replacing = order.overwrite
        if job.target.exists() and job.target != STDIO and not order.overwrite:
            if not order.skip_existing:
                raise SrcliError(f"{job.target} is there already, so {job.source} was left alone. {REPLACE}")
            whole = is_whole(job.target, *sr)
            if whole:
                before = self._before(job, source, sr)
                return replace(outcome, skipped=True, views=before.with_result(job.target) if before else ())
            if whole is None:
                raise SrcliError(f"{job.target} is there already in another size than {sr[0]}x{sr[1]}. {REPLACE}")
            notes.append(f"{job.target} was not whole, so it was made anew.")
            replacing = True
        self._announce(job, lr, sr, chain)
        if order.dry_run:
            return replace(outcome, notes=tuple(notes))
        backends = [self._backend(model) for model in chain]
        sizes = [lr[0] * lr[1] * prod(model.scale for model in chain[:number]) ** 2 for number in range(len(chain))]
        before = self._before(job, source, sr)
        views: list[PreviewPair] = []
        self.listener.on_start(job, sum(sizes))
        result = sizes[-1] * chain[-1].scale ** 2 * image.channels * image.dtype.itemsize
        large = result > LARGE
        if large:
            release_freed_memory()
        with self._large if large else nullcontext():
            rows = upscale_rows(
                [_Cancellable(backend, self._stop) for backend in backends],
                image,
                profile=image.profile,
                tiling=order.tiling,
                on_pixels=lambda pixels: self.listener.on_pixels(job, pixels),
            )

            def write(target: Path) -> list[str]:
                lost = write_rows(
                    rows, target, metadata=image.metadata, size=sr, overwrite=replacing, background=order.background
                )
                views.extend(before.with_result(target) if before else ())  # now, as stdout's result does not last
                return lost

            lost = _to_stdout(image, order.ending, write) if job.target == STDIO else write(job.target)
        if image.damage:
            notes.append(f"{image.name} is damaged ({image.damage}); look whether {job.target} is what you want.")
        notes += [f"{job.target} could not hold everything: {what}." for what in lost]
        return replace(outcome, device=backends[0].runs_on, notes=tuple(notes), views=tuple(views))

    def _before(self, job: Job, source: Path | bytes, sr: tuple[int, int]) -> Preview | None:
        """What to show of an image on a page, where it is to be shown on one."""
        return Preview(source, sr, frame=self.order.frame) if job in self._shown else None

    def _chain(self, job: Job, lr: tuple[int, int], sr: tuple[int, int]) -> list[Model]:
        factor = max(sr[0] / lr[0], sr[1] / lr[1])
        if factor <= 1:
            raise SrcliError(
                f"{job.source} has {lr[0]}x{lr[1]} pixels already, and {sr[0]}x{sr[1]} is no upscaled image. Ask for more."
            )
        return model_chain(self.order.models, factor, self.order.before)

    def _announce(self, job: Job, lr: tuple[int, int], sr: tuple[int, int], chain: Sequence[Model]) -> None:
        """Say the size before the work where it is not simply the model's scale."""
        made = tuple(side * prod(model.scale for model in chain) for side in lr)
        if len(chain) == 1 and made == sr and not self.order.dry_run:
            return
        way = ", ".join([*(model.name for model in chain), *([] if made == sr else ["Lanczos down"])])
        sentence = f"{job.source}: {lr[0]}x{lr[1]} becomes {sr[0]}x{sr[1]} ({way})."
        wide, high = sr[0] / lr[0], sr[1] / lr[1]
        if abs(wide / high - 1) > 0.01 and min(sr) > 1 and self.order.size.scale is None and not self.order.size.fit:
            sentence += " Its proportions change; --fit keeps them."
        self.listener.on_note(sentence)

    def _backend(self, model: Model) -> Backend:
        with self._loading:  # the first readable image pays for loading; a refused one does not wait for it
            if self._stop.is_set():
                raise _Cancelled
            if id(model) not in self._backends:
                try:
                    backend = self._backends[id(model)] = load_model(model, self.order.device)
                except SrcliError as error:
                    raise _ModelLoadError(error) from None
                if self.order.device == "auto":
                    self.listener.on_note(f"{model.name} on {backend.runs_on}.")
            return self._backends[id(model)]


@dataclass
class _Cancellable(BackendWrapper):
    """An enlarger that ends with the run."""

    stop: Event

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        if self.stop.is_set():
            raise _Cancelled
        return self.backend(lr)


def _to_stdout(image: ImageReader, ending: str | None, write: Callable[[Path], list[str]]) -> list[str]:
    """Nothing of an image that fails half-way, so it is written whole before it goes on; in the image's own format."""
    ending = ending or next((ending for loader, ending in _ENDINGS.items() if image.loader.startswith(loader)), ".png")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"stdout{ending}"
        lost = write(path)
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    return lost
