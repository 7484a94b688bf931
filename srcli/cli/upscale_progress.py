"""Progress of `srcli upscale` on stderr: one bar on a terminal, otherwise a line now and then. And its lines on stdout."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING

from srcli.cli.messages import detail, is_quiet, note
from srcli.errors import duration

if TYPE_CHECKING:
    from srcli.inference.batch import UpscaleResult
    from srcli.inference.plan import Job

SECONDS_PER_LINE = 30.0
"""Seconds between two lines if stderr is not a terminal."""


class UpscaleProgress:
    """A context that shows how many images are done, the share of pixels that is done, and an estimate of the time left.

    The share is of the pixels of all images. Their sizes are read in the background while the first ones are upscaled; until
    then, the others count as the mean of those read.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._shows_bar = console.is_terminal and not is_quiet()
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._shows_bar,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            speed_estimate_period=120,
        )
        self._jobs = jobs
        self._finished = 0
        self._bars.add_task(self._description(), total=None)
        self._task = self._bars.tasks[0]
        self._sizes: dict[Job, int] = {}  # pixels; 0 for jobs without work
        self._work: dict[Job, int] = {}  # pixels that the networks of a started job process in all
        self._last_line = time.monotonic()
        self._stop = Event()
        self._scan = Thread(target=self._read_sizes, daemon=True)
        self._lock = Lock()  # notes and pixels come from several threads

    def __enter__(self) -> UpscaleProgress:
        self._bars.start()
        if len(self._jobs) > 1 and not is_quiet():
            self._scan.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._bars.stop()

    def start(self, job: Job, pixels: int) -> None:
        """A job starts whose networks process this many pixels."""
        size = self._sizes.get(job) or _pixels_of(job) or pixels
        with self._lock:
            self._work[job] = pixels
            self._set_size(job, size)

    def advance(self, job: Job, pixels: int) -> None:
        """This many pixels of a job are done."""
        with self._lock:
            self._bars.advance(self._task.id, self._sizes[job] * pixels / self._work[job])
            line = self._line()
        if line:
            self.note(line)

    def finish(self, result: UpscaleResult) -> None:
        """A job is done, skipped, or failed."""
        with self._lock:
            self._finished += 1
            self._bars.update(self._task.id, description=self._description())
            if result.job not in self._work:
                self._set_size(result.job, 0)

    def note(self, sentence: str) -> None:
        """Print a sentence on stderr, unless it should be quiet."""
        self._print(lambda: note(sentence))

    def detail(self, sentence: str) -> None:
        """Print a sentence on stderr if the user wants details."""
        self._print(lambda: detail(sentence))

    def result(self, line: str) -> None:
        """Print a line on stdout."""
        self._print(lambda: print(line))

    def _description(self) -> str:
        return self._jobs[0].source.name if len(self._jobs) == 1 else f"{self._finished} of {len(self._jobs)}"

    def _read_sizes(self) -> None:
        for job in self._jobs:
            if self._stop.is_set():
                return
            if job not in self._sizes:
                size = 0 if job.error else _pixels_of(job)
                with self._lock:
                    if job not in self._sizes:
                        self._set_size(job, size)

    def _set_size(self, job: Job, size: int) -> None:
        self._sizes[job] = size
        # not by update(), which would forget the speed so far
        self._task.total = sum(self._sizes.values()) * len(self._jobs) / len(self._sizes)

    def _line(self) -> str | None:
        """A line for a log, if there is no bar and the last one is a while ago."""
        if self._shows_bar or is_quiet() or time.monotonic() - self._last_line < SECONDS_PER_LINE:
            return None
        self._last_line = time.monotonic()
        left = self._task.time_remaining
        done = f"{self._description()} images" if len(self._jobs) > 1 else self._description()
        return f"{done}, {self._task.percentage:.0f} %{'' if left is None else f', {duration(left)} left'}."

    def _print(self, print_line: Callable[[], None]) -> None:
        """Hide the bar while a line is printed, so that they do not mix if both go to one terminal."""
        with self._lock:
            if not self._shows_bar:
                print_line()
                return
            self._bars.stop()
            print_line()
            self._bars.start()


def _pixels_of(job: Job) -> int:
    """Pixels of the image; 0 if that takes more than reading its header."""
    from srcli.inference.plan import STDIO
    from srcli.io.read import count_pixels

    return 0 if job.source == STDIO else count_pixels(job.source)
