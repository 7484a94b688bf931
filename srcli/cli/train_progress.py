"""A training run while it runs: a bar and its figures on a terminal, a line now and then where there is none."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable
from types import TracebackType

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from srcli.training.trainer import Step
from srcli.training.validation import Scores

LINES_EVERY = 60.0
"""Seconds between two lines where stderr is no terminal."""


class _BarOverFigures(Progress):
    """A bar as wide as the terminal, and under it figures that wrap where it is narrow."""

    figures = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Text(self.figures)


class TrainingProgress:
    """Speaks on stderr. A context: the bar is there as long as it is open."""

    def __init__(self, *, steps: int, done: int, images: int, quiet: bool = False) -> None:
        """images: crops in one step of all processes. quiet: say nothing, as every process but the first does."""
        self.console = Console(stderr=True, quiet=quiet)
        self.images = images
        self.recent: deque[Step] = deque(maxlen=100)
        self.validated = ""
        self.spoken = 0.0
        self.steps = steps
        self.progress = _BarOverFigures(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self.bar = self.progress.add_task("", total=steps, completed=done)

    def __enter__(self) -> TrainingProgress:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.progress.stop()

    def say(self, words: str) -> None:
        self.console.print(words, highlight=False, soft_wrap=True)

    def step(self, step: Step, epoch: float) -> None:
        self.recent.append(step)
        self.spoken += step.seconds
        if not self.progress.disable:
            self.progress.figures = self._figures(epoch) + self.validated
            self.progress.update(self.bar, completed=step.number)
        elif self.spoken >= LINES_EVERY or step.number == self.steps:
            self.spoken = 0.0
            seconds = sum(each.seconds for each in self.recent) / len(self.recent)
            left = seconds * (self.steps - step.number)
            self.say(f"step {step.number} of {self.steps}: {self._figures(epoch)}, {_time(left)} left")

    def scores(self, scores: Scores, bicubic: Scores, *, step: int, improved: bool) -> None:
        self.validated = f", val {scores.psnr:.2f} dB ({scores.psnr - bicubic.psnr:+.2f} to bicubic)"
        best = ", the best so far" if improved else ""
        self.say(
            f"step {step}: validation {scores.psnr:.2f} dB, SSIM {scores.ssim:.4f} "
            f"(bicubic {bicubic.psnr:.2f} dB, {bicubic.ssim:.4f}), loss {scores.loss:.5g}{best}"
        )

    def _figures(self, epoch: float) -> str:
        seconds = sum(each.seconds for each in self.recent)
        waited = sum(each.waited for each in self.recent)
        sound = [each for each in self.recent if not each.skipped]
        terms = {name: sum(each.weighted[name] for each in sound) / len(sound) for name in sound[0].weighted} if sound else {}
        words = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
        return (
            f"epoch {epoch:.1f}, {words}, {self.images * len(self.recent) / seconds:.0f} images/s, "
            f"waiting {waited / seconds:.0%}{_memory()}"
        )


def _time(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def _memory() -> str:
    """The most memory in use so far: the GPU's where one computes, else this process's, where the system tells it."""
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return f", {torch.cuda.max_memory_allocated() / 1e6:.0f} MB"
    try:
        import resource
    except ImportError:  # not on Windows
        return ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f", {peak / (1e6 if sys.platform == 'darwin' else 1e3):.0f} MB"
