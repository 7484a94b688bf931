"""Many pictures in, many larger pictures out: which, where to, how large, and what became of each."""

from __future__ import annotations

import glob
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import combinations_with_replacement
from math import prod
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING

import numpy as np

from srcli.errors import SettingsError, SrcliError
from srcli.files import remove_leftovers
from srcli.images import EXTENSIONS, Before, PictureFile, View, check_target, is_whole, open_picture, write_rows
from srcli.memory import give_back_when_freed
from srcli.upscaling import Around, Enlarger, Tiling, enlarged, load_enlarger

if TYPE_CHECKING:
    from srcli.upscaling import Model

WORKERS = 3
"""Pictures at a time: while one or two are enlarged, the next is decoded or the last encoded."""

LARGE = 2**26
"""Bytes of result from which on a picture has no other large one beside it in memory."""

MOST_PASSES = 6
REPLACE = "Use --overwrite to replace it."
STREAM = Path("-")
"""stdin as a source, stdout as a target."""

_ENDINGS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif", "heif": ".avif"}


@dataclass(frozen=True)
class Size:
    """How large a result shall be: `scale` times the picture, or `width` by `height`, one of which may be open.

    fit: the largest size with the picture's proportions that fits into width by height.
    """

    scale: float | None = None
    width: int | None = None
    height: int | None = None
    fit: bool = False

    def of(self, width: int, height: int) -> tuple[int, int]:
        """The size in pixels for a picture of this width and height."""
        if self.scale is not None:
            scale = self.scale
        elif self.fit or self.width is None or self.height is None:
            scale = min(wish / is_now for wish, is_now in ((self.width, width), (self.height, height)) if wish)
        else:
            return self.width, self.height
        # the side that was asked for comes out exactly, whatever floating point makes of the quotient
        return max(1, round(width * scale)), max(1, round(height * scale))

    @property
    def name(self) -> str:
        """What tells the result's name from the picture's."""
        if self.scale is not None:
            return f"x{self.scale:g}"
        if self.width is None or self.height is None:
            return f"{self.width}w" if self.width else f"{self.height}h"
        return f"{self.width}x{self.height}"


def parse_size(word: str, *, fit: bool = False) -> Size:
    """1920x1080, 1920x or x1080. Raises SettingsError."""
    match = re.fullmatch(r"(\d*)[xX×](\d*)", word.strip())
    width, height = (int(part) if part else None for part in match.groups()) if match else (None, None)
    if not (width or height) or width == 0 or height == 0:
        raise SettingsError(f"{word!r} is no size. Say it as in 1920x1080, 1920x or x1080.")
    return Size(width=width, height=height, fit=fit)


@dataclass(frozen=True)
class Order:
    """What is to be done with every picture.

    models: those to choose from, of different scales; before: those for all passes but the last, if not the same. ending:
    stdout's format. views: of how many pictures, from the first on, to keep what a page can show.
    """

    size: Size
    models: Sequence[Model]
    tiling: Tiling
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
class Job:
    """One picture to enlarge and where the result goes; `error` where it cannot be."""

    source: Path
    target: Path
    error: str | None = None


@dataclass(frozen=True)
class Outcome:
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
    views: tuple[View, ...] = ()


def plan(inputs: Sequence[str], output: str | None, size: Size, *, ending: str | None, recursive: bool) -> list[Job]:
    """A job for each picture that the inputs name: files, folders, globs, and - for stdin.

    output: a file for one picture, - for stdout, a folder that mirrors the tree below each input folder, or None for beside
    the picture. ending: the results', such as .png; None for the pictures' own. Nothing is read.
    Raises SettingsError where the words make no sense together.
    """
    to_stdout = output == "-" or (output is None and list(inputs) == ["-"])
    folder = Path(output) if output is not None and not to_stdout else None
    to_file = folder is not None and folder.suffix != "" and not folder.is_dir()
    if folder is not None and to_file and folder.suffix.lower() not in EXTENSIONS:
        raise SettingsError(
            f"srcli cannot write {folder}; let it end in {', '.join(EXTENSIONS)}, or make the folder if it is to be one."
        )
    found: dict[Path, Path] = {}  # source: where it goes below the output
    jobs: list[Job] = []
    for given in dict.fromkeys(inputs):
        try:
            found |= _sources(given, size, folder if not to_file else None, ending=ending, recursive=recursive)
        except SrcliError as error:
            jobs.append(Job(Path(given), Path(given), str(error)))
    if (to_file or to_stdout) and len(found) > 1:
        raise SettingsError(f"{output} is one file and there are {len(found)} pictures. Give a folder to -o.")
    taken: dict[Path, Path] = {}
    for source, below in found.items():
        if to_stdout:
            jobs.append(Job(source, STREAM))
            continue
        if source == STREAM and not to_file:
            raise SettingsError("A picture from stdin has no name. Give one with -o, or -o - for stdout.")
        beside = _result(source, size, ending)
        target = folder if to_file and folder else folder / below.parent / beside.name if folder else beside
        wrong = None
        if target.suffix.lower() not in EXTENSIONS and source.exists():
            wrong = (
                f"{source}: srcli does not write {target.suffix or 'files without ending'}. Give a name with -o, or --format."
            )
        elif target in taken:
            wrong = f"{source} and {taken[target]} would both become {target}. Enlarge them into different folders."
        elif target in found and target != source:
            wrong = f"{source} would become {target}, which is to be enlarged too. Enlarge them into another folder."
        else:
            taken[target] = source
        jobs.append(Job(source, target, wrong))
    return jobs


def _sources(given: str, size: Size, output: Path | None, *, ending: str | None, recursive: bool) -> dict[Path, Path]:
    """The pictures that one word of the command line names, each with its place below it."""
    path = Path(given)
    if path.is_dir():
        paths = sorted(_looking_like_pictures(path, recursive=recursive))
        results = {_result(source, size, ending) for source in paths}  # of an earlier call, which are no input
        inside = output is not None and output.resolve().is_relative_to(path.resolve()) and output.resolve() != path.resolve()
        fresh = [
            source
            for source in paths
            if source not in results and not (inside and output and source.resolve().is_relative_to(output.resolve()))
        ]
        if not fresh:
            raise SrcliError(
                f"{path} holds no picture. Give a folder with files that end in {', '.join(EXTENSIONS)}"
                f"{'' if recursive else ', or -r for the folders below it'}."
            )
        return {source: source.relative_to(path) for source in fresh}
    if given != "-" and not path.exists() and glob.has_magic(given):
        matches = [Path(match) for match in sorted(glob.glob(given, recursive=True))]  # noqa: PTH207, Path.glob takes no absolute pattern
        pictures = [match for match in matches if match.suffix.lower() in EXTENSIONS]
        if not pictures:
            raise SrcliError(f"{given} matches no picture. Files must end in {', '.join(EXTENSIONS)}.")
        fixed = Path(*_before_magic(path.parts))
        return {match: match.relative_to(fixed) for match in pictures}
    return {path: Path(path.name)}


def _before_magic(parts: Iterable[str]) -> Iterator[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _looking_like_pictures(folder: Path, *, recursive: bool) -> Iterator[Path]:
    """By their names, hidden ones left out. A folder with such a name is one, too, so that it is reported."""
    for path in folder.rglob("*") if recursive else folder.iterdir():
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in EXTENSIONS and not hidden and not (recursive and path.is_dir() and any(path.iterdir())):
            yield path


def _result(source: Path, size: Size, ending: str | None) -> Path:
    return source.with_name(f"{source.stem}_{size.name}{ending or source.suffix}")


def passes(models: Sequence[Model], factor: float, before: Sequence[Model] = ()) -> list[Model]:
    """The models to apply one after another: the smallest product of scales that reaches `factor`, in the fewest passes.

    before: those for all passes but the last, if not the same. Smaller scales come first, as they leave the later ones less to
    do. Raises SrcliError where it takes more than MOST_PASSES.
    """
    last = {model.scale: model for model in models if model.scale > 1}
    first = {model.scale: model for model in before or models if model.scale > 1}
    chains = [
        (*start, end)
        for length in range(MOST_PASSES)
        for start in combinations_with_replacement(sorted(first), length)
        for end in last
        if prod(start) * end >= factor
    ]
    if not chains:
        raise SrcliError(f"{factor:g} times larger is more than {MOST_PASSES} passes of the model reach. Ask for less.")
    *start, end = min(chains, key=lambda chain: (prod(chain), len(chain), chain))
    return [*(first[scale] for scale in start), last[end]]


def _ignore(*_: object) -> None: ...


@dataclass
class Listener:
    """Who is told while the work goes on, from several threads. A picture is known by its job."""

    on_start: Callable[[Job, int], None] = _ignore
    """The job and the number of lr pixels that its networks will see."""
    on_pixels: Callable[[Job, int], None] = _ignore
    """So many more of them are done."""
    on_note: Callable[[str], None] = _ignore
    """A sentence to be said at once."""


class _Stopped(Exception):
    """The run is over, so this picture is left as it was."""


class _CannotLoad(Exception):
    """No picture can be enlarged with this model on this device."""

    def __init__(self, reason: SrcliError) -> None:
        self.reason = reason


@dataclass
class Batch:
    """The work on many pictures: a few at a time, from decoding to encoding."""

    order: Order
    listener: Listener = field(default_factory=Listener)

    def __post_init__(self) -> None:
        self._stop = Event()
        self._loading, self._large = Lock(), Lock()
        self._enlargers: dict[int, Enlarger] = {}  # by the identity of the model
        self._shown: set[Job] = set()

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """The outcomes in the order of the jobs. Leaving early ends the work and removes what is half written.

        Raises SrcliError where no picture can be enlarged: no such device, a damaged model.
        """
        self.order.tiling.on_halved = lambda side: self.listener.on_note(
            f"Memory ran out, so the tiles are halved to {side} pixels."
        )
        if not self.order.dry_run:
            self._shown = set([job for job in jobs if not job.error][: self.order.views])
            remove_leftovers(job.target for job in jobs if job.target != STREAM)
        pool = ThreadPoolExecutor(WORKERS)
        try:
            futures: list[Future[Outcome]] = [pool.submit(self._outcome, job) for job in jobs]
            for place, future in enumerate(futures):
                while not wait([future], timeout=0.5).done:  # wakes up, so that Ctrl-C is heard on every system
                    pass
                yield future.result()
                futures[place] = Future()  # forget it: there may be many thousands
        except _CannotLoad as failure:
            raise failure.reason from None
        finally:
            self._stop.set()
            pool.shutdown(cancel_futures=True)

    def _outcome(self, job: Job) -> Outcome:
        if job.error:
            return Outcome(job, error=job.error)
        begin = time.perf_counter()
        try:
            outcome = self._enlarge(job)
        except SrcliError as error:
            outcome = Outcome(job, error=str(error))
        except MemoryError:
            outcome = Outcome(job, error=f"There is not enough memory for {job.source}. Close other programs.")
        return replace(outcome, seconds=round(time.perf_counter() - begin, 3))

    def _enlarge(self, job: Job) -> Outcome:
        order = self.order
        source = sys.stdin.buffer.read() if job.source == STREAM else job.source
        picture = open_picture(
            source, frame=order.frame, max_pixels=order.max_pixels, srgb=order.strip_metadata, find_damage=True
        )
        lr = picture.width, picture.height
        sr = order.size.of(*lr)
        chain = self._chain(job, lr, sr)
        outcome = Outcome(job, lr, sr, tuple(model.name for model in chain))
        check_target(Path("stdout.png") if job.target == STREAM else job.target, *sr)
        notes: list[str] = []
        replacing = order.overwrite
        if job.target.exists() and job.target != STREAM and not order.overwrite:
            if not order.skip_existing:
                raise SrcliError(f"{job.target} is there already, so {job.source} was left alone. {REPLACE}")
            whole = is_whole(job.target, *sr)
            if whole:
                before = self._before(job, source, sr)
                return replace(outcome, skipped=True, views=before.beside(job.target) if before else ())
            if whole is None:
                raise SrcliError(f"{job.target} is there already in another size than {sr[0]}x{sr[1]}. {REPLACE}")
            notes.append(f"{job.target} was not whole, so it was made anew.")
            replacing = True
        self._announce(job, lr, sr, chain)
        if order.dry_run:
            return replace(outcome, notes=tuple(notes))
        enlargers = [self._enlarger(model) for model in chain]
        sizes = [lr[0] * lr[1] * prod(model.scale for model in chain[:number]) ** 2 for number in range(len(chain))]
        before = self._before(job, source, sr)
        views: list[View] = []
        self.listener.on_start(job, sum(sizes))
        result = sizes[-1] * chain[-1].scale ** 2 * picture.channels * picture.dtype.itemsize
        large = result > LARGE
        if large:
            give_back_when_freed()
        with self._large if large else nullcontext():
            rows = enlarged(
                [_Stoppable(enlarger, self._stop) for enlarger in enlargers],
                picture,
                profile=picture.profile,
                tiling=order.tiling,
                on_pixels=lambda pixels: self.listener.on_pixels(job, pixels),
            )

            def write(target: Path) -> list[str]:
                lost = write_rows(
                    rows, target, metadata=picture.metadata, size=sr, overwrite=replacing, background=order.background
                )
                views.extend(before.beside(target) if before else ())  # now, as stdout's result does not last
                return lost

            lost = _to_stdout(picture, order.ending, write) if job.target == STREAM else write(job.target)
        if picture.damage:
            notes.append(f"{picture.name} is damaged ({picture.damage}); look whether {job.target} is what you want.")
        notes += [f"{job.target} could not hold everything: {what}." for what in lost]
        return replace(outcome, device=enlargers[0].runs_on, notes=tuple(notes), views=tuple(views))

    def _before(self, job: Job, source: Path | bytes, sr: tuple[int, int]) -> Before | None:
        """What to show of a picture on a page, where it is to be shown on one."""
        return Before(source, sr, frame=self.order.frame) if job in self._shown else None

    def _chain(self, job: Job, lr: tuple[int, int], sr: tuple[int, int]) -> list[Model]:
        factor = max(sr[0] / lr[0], sr[1] / lr[1])
        if factor <= 1:
            raise SrcliError(
                f"{job.source} has {lr[0]}x{lr[1]} pixels already, and {sr[0]}x{sr[1]} is no enlargement. Ask for more."
            )
        return passes(self.order.models, factor, self.order.before)

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

    def _enlarger(self, model: Model) -> Enlarger:
        with self._loading:  # the first readable picture pays for loading; a refused one does not wait for it
            if self._stop.is_set():
                raise _Stopped
            if id(model) not in self._enlargers:
                try:
                    enlarger = self._enlargers[id(model)] = load_enlarger(model, self.order.device)
                except SrcliError as error:
                    raise _CannotLoad(error) from None
                if self.order.device == "auto":
                    self.listener.on_note(f"{model.name} on {enlarger.runs_on}.")
            return self._enlargers[id(model)]


@dataclass
class _Stoppable(Around):
    """An enlarger that ends with the run."""

    stop: Event

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        if self.stop.is_set():
            raise _Stopped
        return self.enlarger(lr)


def _to_stdout(picture: PictureFile, ending: str | None, write: Callable[[Path], list[str]]) -> list[str]:
    """Nothing of a picture that fails half-way, so it is written whole before it goes on; in the picture's own format."""
    ending = ending or next((ending for loader, ending in _ENDINGS.items() if picture.loader.startswith(loader)), ".png")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"stdout{ending}"
        lost = write(path)
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    return lost
