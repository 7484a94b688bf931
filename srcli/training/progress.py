"""What a training run reports while it runs."""

from __future__ import annotations

from typing import Protocol

from srcli.training.trainer import Step
from srcli.training.validation import Scores


class TrainingProgress(Protocol):
    """Receives the progress of a run, in the order of these methods."""

    def image_decoded(self) -> None: ...

    def label_made(self, done: int, total: int) -> None:
        """So many labels of the teacher exist. Called before the first is made, and after each."""

    def start(self, *, steps: int | None, seconds: float | None, done: int, elapsed: float, images_per_step: int) -> None:
        """Training starts after step `done` and `elapsed` seconds. It takes so many steps, or so many seconds."""

    def message(self, sentence: str) -> None:
        """A sentence for the user, at any time."""

    def step(self, step: Step, epoch: float) -> None: ...

    def scores(self, scores: Scores, bicubic: Scores, *, step: int, improved: bool) -> None:
        """Scores of a validation, those of bicubic interpolation, and whether the loss is the lowest so far."""

    def stop(self) -> None: ...


class NoProgress:
    """Reports nothing."""

    def image_decoded(self) -> None: ...

    def label_made(self, done: int, total: int) -> None: ...

    def start(self, *, steps: int | None, seconds: float | None, done: int, elapsed: float, images_per_step: int) -> None: ...

    def message(self, sentence: str) -> None: ...

    def step(self, step: Step, epoch: float) -> None: ...

    def scores(self, scores: Scores, bicubic: Scores, *, step: int, improved: bool) -> None: ...

    def stop(self) -> None: ...
