"""Progress of `srcli upscale`: lines on stdout and stderr, and progress bars on a terminal."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Any

from srcli.cli.messages import detail, is_quiet, note

if TYPE_CHECKING:
    from srcli.inference.plan import Job


class UpscaleProgress:
    """A context that shows a bar for the files and one for each image in progress, if stderr is a terminal."""

    def __init__(self, files: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._no_bars = is_quiet() or not console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            console=console,
            disable=self._no_bars,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._files = self._bars.add_task(f"{files} images", total=files, visible=files > 1)
        self._tasks: dict[Job, Any] = {}
        self._lock = Lock()  # notes come from several threads

    def __enter__(self) -> UpscaleProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def start(self, job: Job, pixels: int) -> None:
        if not self._no_bars:
            self._tasks[job] = self._bars.add_task(job.source.name, total=pixels)

    def advance(self, job: Job, pixels: int) -> None:
        if not self._no_bars:
            self._bars.advance(self._tasks[job], pixels)

    def finish(self, job: Job) -> None:
        self._bars.advance(self._files)
        if job in self._tasks:
            self._bars.remove_task(self._tasks.pop(job))

    def note(self, sentence: str) -> None:
        """Print a sentence on stderr, unless it should be quiet."""
        self._print(lambda: note(sentence))

    def detail(self, sentence: str) -> None:
        """Print a sentence on stderr if the user wants details."""
        self._print(lambda: detail(sentence))

    def result(self, line: str) -> None:
        """Print a line on stdout."""
        self._print(lambda: print(line))

    def _print(self, print_line: Callable[[], None]) -> None:
        """Hide the bars while a line is printed, so that they do not mix if both go to one terminal."""
        with self._lock:
            if self._no_bars:
                print_line()
                return
            self._bars.stop()
            print_line()
            self._bars.start()
