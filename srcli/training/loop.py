"""The training loop: steps, validations, and when to save and to end. Reports through callbacks; uses no files."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Literal

import torch

from srcli.core.networks import Generator
from srcli.errors import SrcliError
from srcli.training.gather import Batch
from srcli.training.trainer import Step, Trainer
from srcli.training.validation import Scores

MAX_CONSECUTIVE_NONFINITE = 10
"""Consecutive steps without a finite loss after which training stops."""

EARLY_VALIDATION = 60.0
"""Seconds from the start after which there is a validation, even if the first of `val_every` steps is later."""


class DivergedError(SrcliError):
    """The loss was not finite in several consecutive steps, the last of which is `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(f"The loss was not finite in {MAX_CONSECUTIVE_NONFINITE} consecutive steps, up to step {step}.")
        self.step = step


READ_STEPS, READ_SECONDS = 25, 0.5
"""Steps and seconds after which the results of steps on a GPU are read. Reading each one would make the GPU wait."""


class Unread:
    """Decides when to read the results of steps, and shares their time among them."""

    def __init__(self, device: torch.device) -> None:
        self.most = READ_STEPS if device.type == "cuda" else 1
        self.count, self.seconds, self.waited = 0, 0.0, 0.0

    def add(self, seconds: float, waited: float) -> None:
        self.count, self.seconds, self.waited = self.count + 1, self.seconds + seconds, self.waited + waited

    @property
    def is_due(self) -> bool:
        return self.count >= self.most or self.seconds >= READ_SECONDS

    def read(self, trainer: Trainer) -> Iterator[Step]:
        started = time.perf_counter()
        steps = trainer.results()
        first = next(steps)  # waits for the device
        seconds = (self.seconds + time.perf_counter() - started) / self.count
        waited = self.waited / self.count
        self.count, self.seconds, self.waited = 0, 0.0, 0.0
        for step in chain([first], steps):
            yield replace(step, seconds=seconds, waited=waited)


Ending = Literal["done", "stopped", "patience"]


def train(
    trainer: Trainer,
    batches: Iterator[Batch],
    *,
    on_step: Callable[[Step], None],
    on_save: Callable[[], None],
    validate: Callable[[Generator], Scores] | None = None,
    on_scores: Callable[[Scores, bool], None] = lambda _scores, _improved: None,
    stop: Callable[[], bool] = lambda: False,
) -> Ending:
    """Train until the last step, until `stop` returns true, or until patience runs out.

    batches: for the next step and those after it. on_save: called at intervals and at the end. validate: scores the averaged
    generator. on_scores: called after each validation with the scores and whether the loss is the lowest so far.
    Raises DivergedError if the loss is not finite in many consecutive steps. The weights are then those of the last finite
    step.
    """
    config = trainer.config

    def score() -> None:
        if validate is not None:
            scores = validate(trainer.average)
            improved = scores.loss < trainer.best
            trainer.best = min(scores.loss, trainer.best)
            trainer.validations_without_improvement = 0 if improved else trainer.validations_without_improvement + 1
            on_scores(scores, improved)

    mark = time.monotonic()
    early = mark + EARLY_VALIDATION if trainer.steps == 0 else math.inf
    if trainer.steps == 0:
        score()
    batch = next(batches)
    unread = Unread(trainer.device)
    while not trainer.is_done:
        started = time.perf_counter()
        following = next(batches)
        waited = time.perf_counter() - started
        trainer.advance(batch, following)
        unread.add(time.perf_counter() - started, waited)
        now = time.monotonic()
        trainer.tick(now - mark)
        mark = now
        last = trainer.is_done
        validating = last or trainer.steps % config.val_every == 0 or now >= early
        # one process may be stopped, but all end at the same step
        stopped = trainer.world.any(stop(), trainer.device)
        saving = last or stopped or trainer.steps % config.save_every == 0
        if validating or saving or unread.is_due:
            for step in unread.read(trainer):
                on_step(step)
                if trainer.consecutive_skips >= MAX_CONSECUTIVE_NONFINITE:
                    raise DivergedError(step.number)
        batch = following
        if validating:
            score()
            early = math.inf
        # one process validates, but all end at the same step
        out_of_patience = bool(config.patience) and trainer.world.any(
            trainer.validations_without_improvement >= config.patience, trainer.device
        )
        if saving or out_of_patience:
            on_save()
        if last or out_of_patience or stopped:
            return "done" if last else "patience" if out_of_patience else "stopped"
    return "done"
