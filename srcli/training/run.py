"""One training run from its settings to its end: photographs are read, steps taken, files written, and words said."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from torch import Tensor

from srcli.cli.train_progress import TrainingProgress
from srcli.config import TrainConfig, seconds
from srcli.core.device import pick_device
from srcli.core.losses import WeightedLoss
from srcli.errors import ConfigError, SrcliError
from srcli.models.checkpoint import load_feature_loss, load_generator
from srcli.training.curves import draw_curves
from srcli.training.dataset import PhotoDataset, TrainBatch, prefetched
from srcli.training.distributed import init_distributed, local_device
from srcli.training.history import LOG_INTERVAL, History
from srcli.training.run_dir import RunDirectory
from srcli.training.sample_grid import draw_sample_grid
from srcli.training.trainer import DivergedError, Ending, Step, Trainer, crop_size, train
from srcli.training.validation import Scores, Validation, smallest_side

CALIBRATION_PIXELS = 100_000
"""Pixels of small images that tell the ranges of a generator's activations."""


class TrainingRun:
    """A run that is ready for its next step: everything that can be wrong has been found. `begin` and `resume` make one."""

    def __init__(self, run: RunDirectory, config: TrainConfig, about: dict[str, Any], state: dict[str, Any] | None) -> None:
        self.run, self.config, self.about = run, config, about
        device = pick_device(local_device(config.device))
        self.world = init_distributed(device)
        self.claim = ExitStack()  # on the run's folder, from the first change in it until training ends
        loss = config.loss
        feature = load_feature_loss(loss.layers, config.vgg, loss.distance) if loss.needs_vgg else None
        self.trainer = Trainer(config, WeightedLoss(loss, feature, config.generator.scale), device, self.world)
        if state is not None:
            self.trainer.restore(state)
        self.images = config.batch * self.world.size
        self.live = TrainingProgress(
            steps=config.steps, done=self.trainer.steps, images=self.images, quiet=not self.world.is_first
        )
        if state is None and config.init is not None:
            self._start_from(config.init)
        if not self.world.is_first:
            self.world.wait()  # until the first process has decoded the photographs for all
        self.photos, held_out = read_photos(config)
        if self.world.is_first:
            self.world.wait()
        if self.about.setdefault("photos", self.photos.fingerprint) != self.photos.fingerprint:
            self.live.say(f"The photographs in {config.photos} are not those that the run began with; it goes on with these.")
        self.small = self._calibration_images()
        self.history = History(run, config, images=self.images, crops=self.photos.crops(config.patch))
        validates = held_out is not None and self.world.is_first
        self.validation = Validation(held_out, config, self.trainer.loss, device) if validates and held_out else None
        generator, arithmetic = config.generator, str(self.trainer.autocast).removeprefix("torch.")
        self.live.say(
            f"{len(self.photos)} photographs to train on, {self.photos.megapixels:.1f} megapixels, and {len(held_out or ())} "
            f"to validate on; {generator.architecture} x{generator.scale} on {device}, {arithmetic}."
        )

    @classmethod
    def begin(cls, run: RunDirectory, config: TrainConfig, command: str, *, overwrite: bool) -> TrainingRun:
        """A new run. Raises SrcliError for whatever is wrong, and then leaves an earlier run in the folder as it was."""
        run.check(overwrite=overwrite)
        session = cls(run, config, {"command": command}, None)
        run.check_space(session.trainer)
        if session.world.is_first:
            session.claim.enter_context(run.locked())
            run.create(config, command)
        return session

    @classmethod
    def resume(cls, run: RunDirectory, config: TrainConfig, state: dict[str, Any]) -> TrainingRun:
        """A run from the state that a checkpoint holds, with whatever of the settings is said anew."""
        session = cls(run, config, state["about"], state)
        run.check_space(session.trainer)
        if session.world.is_first:
            session.claim.enter_context(run.locked())
            run.truncate_history(session.trainer.steps)
        return session

    def train(self, *, interrupted: Callable[[], bool]) -> Ending:
        """Until the end, until patience or time are over, or until it is interrupted; each is said, and how to go on."""
        began = time.monotonic()
        limit = seconds(self.config.max_time) if self.config.max_time is not None else float("inf")
        try:
            with self.live, self._explained():
                ending = train(
                    self.trainer,
                    prefetched(self._crops, self.trainer.steps),
                    on_step=self._on_step,
                    on_save=self._on_save,
                    validate=self.validation.measure if self.validation else None,
                    on_scores=self._on_scores,
                    stop=lambda: interrupted() or time.monotonic() - began > limit,
                )
        finally:
            self.claim.close()
            self.trainer.leave()
        step = self.trainer.steps
        if self.trainer.skipped:
            self.live.say(f"{self.trainer.skipped} steps were skipped, as their loss was not finite.")
        if ending == "stopped":
            why = "" if interrupted() else f", as its time of {self.config.max_time} is over"
            again = f"srcli train --resume {shlex.quote(str(self.run.folder))}"
            self.live.say(f"Stopped after step {step} and saved{why}. Continue with: {again}")
        if ending == "patience":
            self.live.say(f"Ended after step {step}: {self.config.patience} validations without a better loss.")
            self.live.say(f"The best is {self.run.best}")
        return ending

    def _start_from(self, init: str) -> None:
        source = load_generator(init)
        self.trainer.start_from(source)
        if source.scale != self.config.generator.scale:
            self.live.say(f"{init} is a model x{source.scale}: its last layer is left out and begins anew.")

    def _crops(self, step: int) -> TrainBatch:
        batch = self.config.batch
        part = slice(self.world.rank * batch, (self.world.rank + 1) * batch)
        return self.photos.batch(step, seed=self.config.seed, size=self.images, patch=crop_size(self.config), part=part)

    def _calibration_images(self) -> Tensor:
        """Those of the first steps, from which a model learns how to run in 8 bits: N x 3 x H x W."""
        lrs: list[Tensor] = []
        while sum(lr[:, 0].numel() for lr in lrs) < CALIBRATION_PIXELS:
            step = len(lrs)
            lrs.append(self.trainer.pair(self._crops(step), step)[0])
        return torch.cat(lrs)

    def _on_step(self, step: Step) -> None:
        self.live.step(step, self.history.epoch(step.number))
        self.history.add(step)
        if self.world.is_first and step.number % LOG_INTERVAL == 0 and step.number % self.config.val_every:
            self.history.write(step.number, self.trainer.skipped)

    def _on_scores(self, scores: Scores, improved: bool) -> None:
        assert self.validation is not None
        bicubic, step = self.validation.baseline, self.trainer.steps
        self.live.scores(scores, bicubic, step=step, improved=improved)
        self.history.write(step, self.trainer.skipped, (scores, bicubic))
        if improved:
            self.run.save_best(self.trainer, self.about, self.small, scores)
        draw_curves(self.run.history, self.run.curves)
        draw_sample_grid(self.validation.samples(self.trainer.average), self.run.sample_grid, step=step)

    def _on_save(self) -> None:
        if self.world.is_first:
            self.history.write(self.trainer.steps, self.trainer.skipped)
            self.run.save(self.trainer, self.about, self.small)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What ends training before its time, as a sentence with the next step."""
        try:
            yield
        except DivergedError as error:
            self.run.save_failing_batch(error.crops)
            if self.trainer.is_finite:
                self._on_save()
            names = ", ".join(self.photos.source_names(error.step - 1, seed=self.config.seed, size=self.images)[:4])
            smaller = f"--lr {self.config.lr / 10:g}"
            then = (
                f"Go on from the last sound state with: srcli train --resume {self.run.folder} {smaller}"
                if self.run.checkpoint.exists()
                else f"Begin again with {smaller}."
            )
            raise SrcliError(f"{error} {self.run.not_finite} holds its crops (of {names}). {then}") from None
        except RuntimeError as error:
            if not (self.config.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))):
                raise
            reason = str(error).splitlines()[0]
            raise SrcliError(f"torch.compile failed ({reason}). Install a C++ compiler, or leave out --compile.") from None


def read_photos(config: TrainConfig) -> tuple[PhotoDataset, PhotoDataset | None]:
    """Photographs to train on and those to validate on. Everything that is wrong with any is an SrcliError."""
    assert config.photos is not None
    if config.val is not None and config.lr_data is not None:
        raise ConfigError("With --lr-data, validation is on some of the pairs: use --val-split in the place of --val.")
    smallest = max(crop_size(config), smallest_side(config))
    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("Decoding photographs: {task.completed}")
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("", total=None)

        def read(folder: str, lr_data: str | None = None) -> PhotoDataset:
            return PhotoDataset.read(
                Path(folder),
                smallest=smallest,
                cache=config.cache,
                lr_data=Path(lr_data) if lr_data is not None else None,
                scale=config.generator.scale,
                on_image=lambda: progress.advance(bar),
            )

        photos = read(config.photos, config.lr_data)
        if config.val is not None:
            return photos, read(config.val)
    return photos.split(config.val_split, seed=config.seed) if config.val_split else (photos, None)
