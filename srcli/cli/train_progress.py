"""Progress of `srcli train` on stderr: a bar with metrics on a terminal, otherwise a line now and then."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.status import Status
from rich.text import Text

from srcli.cli.messages import as_options, is_quiet, is_verbose
from srcli.core.device import peak_memory
from srcli.errors import counted, duration
from srcli.training.trainer import Step
from srcli.training.validation import Scores

SECONDS_PER_LINE, SECONDS_PER_LINE_VERBOSE = 60.0, 5.0
"""Seconds between two lines if stderr is not a terminal, and with --verbose."""


class _BarAboveMetrics(Progress):
    """A bar of the terminal's width, and below it metrics that wrap on a narrow terminal."""

    metrics = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Text(self.metrics)


class TerminalProgress:
    """Shows a training run on stderr. See `srcli.training.progress.TrainingProgress`."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, quiet=is_quiet())
        self.seconds_per_line = SECONDS_PER_LINE_VERBOSE if is_verbose() else SECONDS_PER_LINE
        self.decoded = 0
        self.status: Status | None = None
        self.steps: int | None = None
        self.total = 0.0  # steps or seconds
        self.began = 0.0
        self.started = 0.0
        self.taken = 0
        self.training = 0.0  # seconds, without validation and saving
        self.images_per_step = 0
        self.recent: deque[Step] = deque(maxlen=100)
        self.validated = ""
        self.seconds_since_line = 0.0
        self.bar: _BarAboveMetrics | None = None
        self.labels: Progress | None = None
        self.last_label_line = 0.0

    def image_decoded(self) -> None:
        self.decoded += 1
        if self.status is None:
            self.status = self.console.status("")
            self.status.start()
        self.status.update(f"Decoding photographs: {self.decoded}")

    def label_made(self, done: int, total: int) -> None:
        if self.labels is None:
            self.message(f"The teacher has labels to make for {total - done} of {total} images.")
            columns = (TextColumn("Labels"), BarColumn(bar_width=None), MofNCompleteColumn())
            left = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
            self.labels = Progress(*columns, *left, console=self.console, disable=not self.console.is_terminal)
            self.labels.add_task("", total=total)
            self.labels.start()
            self.last_label_line = time.monotonic()
        self.labels.update(self.labels.task_ids[0], completed=done)
        if not self.console.is_terminal and time.monotonic() - self.last_label_line >= self.seconds_per_line:
            self.last_label_line = time.monotonic()
            self.message(f"{done} of {total} labels")
        if done == total:
            self.labels.stop()

    def start(self, *, steps: int | None, seconds: float | None, done: int, elapsed: float, images_per_step: int) -> None:
        self.steps, self.images_per_step = steps, images_per_step
        self.total = float(steps if steps is not None else seconds or 0)
        self.started = time.monotonic()
        self.began = self.started - elapsed
        if self.console.is_terminal:
            self.bar = _BarAboveMetrics(
                BarColumn(bar_width=None),
                *([MofNCompleteColumn()] if steps is not None else []),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.bar.add_task("", total=self.total, completed=done if steps is not None else int(elapsed))
            self.bar.start()

    def stop(self) -> None:
        if self.labels is not None:
            self.labels.stop()
        if self.bar is not None:
            self.bar.stop()
        if self.taken:
            speed = self.images_per_step * self.taken / self.training
            total = duration(time.monotonic() - self.started)
            self.message(f"{counted(self.taken, 'step')} in {total}, {speed:.0f} images/s without validation and saving.")

    def message(self, sentence: str) -> None:
        self._end_status()
        self.console.print(as_options(sentence), highlight=False, markup=False, soft_wrap=True)

    def _end_status(self) -> None:
        if self.status is not None:
            self.status.stop()
            self.status = None

    def step(self, step: Step, epoch: float) -> None:
        self.recent.append(step)
        self.taken += 1
        self.training += step.seconds
        self.seconds_since_line += step.seconds
        if self.bar is not None:
            self.bar.metrics = self._metrics(epoch) + self.validated
            done = step.number if self.steps is not None else time.monotonic() - self.began
            self.bar.update(self.bar.task_ids[0], completed=done)
        elif self.seconds_since_line >= self.seconds_per_line or step.number == self.steps:
            self.seconds_since_line = 0.0
            if self.steps is None:
                of, left = "", max(0.0, self.total - (time.monotonic() - self.began))
            else:
                seconds = sum(each.seconds for each in self.recent) / len(self.recent)
                of, left = f" of {self.steps}", seconds * (self.steps - step.number)
            self.message(f"step {step.number}{of}: {self._metrics(epoch)}, {duration(left)} left")

    def scores(self, scores: Scores, bicubic: Scores, *, step: int, improved: bool) -> None:
        self.validated = f", val {scores.psnr:.2f} dB ({scores.psnr - bicubic.psnr:+.2f} to bicubic)"
        best = ", the best so far" if improved else ""
        self.message(
            f"step {step}: validation {scores.psnr:.2f} dB, SSIM {scores.ssim:.4f} "
            f"(bicubic {bicubic.psnr:.2f} dB, {bicubic.ssim:.4f}), loss {scores.loss:.5g}{best}"
        )

    def _metrics(self, epoch: float) -> str:
        seconds = sum(each.seconds for each in self.recent)
        waited = sum(each.waited for each in self.recent)
        finite = [each for each in self.recent if not each.skipped]
        means = (
            {name: sum(each.weighted[name] for each in finite) / len(finite) for name in finite[0].weighted} if finite else {}
        )
        terms = ", ".join(f"{name} {value:.4g}" for name, value in means.items())
        peak = peak_memory()
        memory = "" if peak is None else f", {peak / 1e6:.0f} MB"
        return (
            f"epoch {epoch:.1f}, {terms}, {self.images_per_step * len(self.recent) / seconds:.0f} images/s, "
            f"waiting {waited / seconds:.0%}{memory}"
        )
