"""The training loop: steps, validations, and when to save and to end. Reports through callbacks; uses no files."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

from srcli.core.networks import Generator
from srcli.errors import SrcliError
from srcli.training.dataset import TrainBatch
from srcli.training.trainer import Step, Trainer
from srcli.training.validation import Scores

MAX_CONSECUTIVE_NONFINITE = 10
"""Consecutive steps without a finite loss after which training stops."""

EARLY_VALIDATION = 60.0
"""Seconds from the start after which there is a validation, even if the first of `val_every` steps is later."""


class DivergedError(SrcliError):
    """The loss was not finite in several consecutive steps. batch: of the last of them, at `step`."""

    def __init__(self, step: int, batch: TrainBatch) -> None:
        super().__init__(f"The loss was not finite in {MAX_CONSECUTIVE_NONFINITE} consecutive steps, up to step {step}.")
        self.step = step
        self.batch = batch


Ending = Literal["done", "stopped", "patience"]


def train(
    trainer: Trainer,
    batches: Iterator[TrainBatch],
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
    while not trainer.is_done:
        started = time.perf_counter()
        following = next(batches)
        waited = time.perf_counter() - started
        step = trainer.step(batch, following)
        on_step(replace(step, seconds=time.perf_counter() - started, waited=waited))
        if trainer.consecutive_skips >= MAX_CONSECUTIVE_NONFINITE:
            raise DivergedError(step.number, batch)
        batch = following
        now = time.monotonic()
        trainer.tick(now - mark)
        mark = now
        last = trainer.is_done
        if last or step.number % config.val_every == 0 or now >= early:
            score()
            early = math.inf
        # one process validates and any may be stopped, but all end at the same step
        out_of_patience = bool(config.patience) and trainer.world.any(
            trainer.validations_without_improvement >= config.patience, trainer.device
        )
        stopped = trainer.world.any(stop(), trainer.device)
        if last or out_of_patience or stopped or step.number % config.save_every == 0:
            on_save()
        if last or out_of_patience or stopped:
            return "done" if last else "patience" if out_of_patience else "stopped"
    return "done"
