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

from srcli.core.devices import pick_device
from srcli.core.distributed import join_world, local_device
from srcli.core.losses import WeightedLoss
from srcli.errors import SettingsError, SrcliError
from srcli.models import load_feature_loss, load_generator
from srcli.photos import Crops, Photos, prefetched
from srcli.report.curves import draw_curves
from srcli.report.live import Live
from srcli.report.strip import draw_strip
from srcli.runs import ROW_EVERY, History, Run
from srcli.settings import TrainSettings, seconds
from srcli.training import Diverged, Ending, Step, Training, crop_size, train
from srcli.validation import Scores, Validation, smallest_side

ENOUGH = 100_000
"""Pixels of small pictures that tell the ranges of a generator's activations."""


class Session:
    """A run that is ready for its next step: everything that can be wrong has been found. `begin` and `resume` make one."""

    def __init__(self, run: Run, settings: TrainSettings, about: dict[str, Any], state: dict[str, Any] | None) -> None:
        self.run, self.settings, self.about = run, settings, about
        device = pick_device(local_device(settings.device))
        self.world = join_world(device)
        self.claim = ExitStack()  # on the run's folder, from the first change in it until training ends
        loss = settings.loss
        feature = load_feature_loss(loss.layers, settings.vgg, loss.distance) if loss.sees_features else None
        self.training = Training(settings, WeightedLoss(loss, feature, settings.generator.scale), device, self.world)
        if state is not None:
            self.training.restore(state)
        self.images = settings.batch * self.world.size
        self.live = Live(steps=settings.steps, done=self.training.steps, images=self.images, quiet=not self.world.is_first)
        if state is None and settings.init is not None:
            self._start_from(settings.init)
        if not self.world.is_first:
            self.world.wait()  # until the first process has decoded the photographs for all
        self.photos, held_out = read_photos(settings)
        if self.world.is_first:
            self.world.wait()
        if self.about.setdefault("photos", self.photos.fingerprint) != self.photos.fingerprint:
            self.live.say(f"The photographs in {settings.photos} are not those that the run began with; it goes on with these.")
        self.small = self._small_pictures()
        self.history = History(run, settings, images=self.images, crops=self.photos.crops(settings.patch))
        validates = held_out is not None and self.world.is_first
        self.validation = Validation(held_out, settings, self.training.loss, device) if validates and held_out else None
        generator, arithmetic = settings.generator, str(self.training.autocast).removeprefix("torch.")
        self.live.say(
            f"{len(self.photos)} photographs to train on, {self.photos.megapixels:.1f} megapixels, and {len(held_out or ())} "
            f"to validate on; {generator.architecture} x{generator.scale} on {device}, {arithmetic}."
        )

    @classmethod
    def begin(cls, run: Run, settings: TrainSettings, command: str, *, overwrite: bool) -> Session:
        """A new run. Raises SrcliError for whatever is wrong, and then leaves an earlier run in the folder as it was."""
        run.check(overwrite=overwrite)
        session = cls(run, settings, {"command": command}, None)
        run.check_space(session.training)
        if session.world.is_first:
            session.claim.enter_context(run.claimed())
            run.create(settings, command)
        return session

    @classmethod
    def resume(cls, run: Run, settings: TrainSettings, state: dict[str, Any]) -> Session:
        """A run from the state that a checkpoint holds, with whatever of the settings is said anew."""
        session = cls(run, settings, state["about"], state)
        run.check_space(session.training)
        if session.world.is_first:
            session.claim.enter_context(run.claimed())
            run.forget_after(session.training.steps)
        return session

    def train(self, *, interrupted: Callable[[], bool]) -> Ending:
        """Until the end, until patience or time are over, or until it is interrupted; each is said, and how to go on."""
        began = time.monotonic()
        limit = seconds(self.settings.max_time) if self.settings.max_time is not None else float("inf")
        try:
            with self.live, self._explained():
                ending = train(
                    self.training,
                    prefetched(self._crops, self.training.steps),
                    on_step=self._on_step,
                    on_save=self._on_save,
                    validate=self.validation.measure if self.validation else None,
                    on_scores=self._on_scores,
                    stop=lambda: interrupted() or time.monotonic() - began > limit,
                )
        finally:
            self.claim.close()
            self.training.leave()
        step = self.training.steps
        if self.training.skipped:
            self.live.say(f"{self.training.skipped} steps were skipped, as their loss was not finite.")
        if ending == "stopped":
            why = "" if interrupted() else f", as its time of {self.settings.max_time} is over"
            again = f"srcli train --resume {shlex.quote(str(self.run.folder))}"
            self.live.say(f"Stopped after step {step} and saved{why}. Continue with: {again}")
        if ending == "patience":
            self.live.say(f"Ended after step {step}: {self.settings.patience} validations without a better loss.")
            self.live.say(f"The best is {self.run.best}")
        return ending

    def _start_from(self, init: str) -> None:
        source = load_generator(init)
        self.training.start_from(source)
        if source.scale != self.settings.generator.scale:
            self.live.say(f"{init} is a model x{source.scale}: its last layer is left out and begins anew.")

    def _crops(self, step: int) -> Crops:
        batch = self.settings.batch
        part = slice(self.world.rank * batch, (self.world.rank + 1) * batch)
        return self.photos.batch(step, seed=self.settings.seed, size=self.images, patch=crop_size(self.settings), part=part)

    def _small_pictures(self) -> Tensor:
        """Those of the first steps, from which a model learns how to run in 8 bits: N x 3 x H x W."""
        lrs: list[Tensor] = []
        while sum(lr[:, 0].numel() for lr in lrs) < ENOUGH:
            step = len(lrs)
            lrs.append(self.training.pair(self._crops(step), step)[0])
        return torch.cat(lrs)

    def _on_step(self, step: Step) -> None:
        self.live.step(step, self.history.epoch(step.number))
        self.history.add(step)
        if self.world.is_first and step.number % ROW_EVERY == 0 and step.number % self.settings.val_every:
            self.history.write(step.number, self.training.skipped)

    def _on_scores(self, scores: Scores, improved: bool) -> None:
        assert self.validation is not None
        bicubic, step = self.validation.baseline, self.training.steps
        self.live.scores(scores, bicubic, step=step, improved=improved)
        self.history.write(step, self.training.skipped, (scores, bicubic))
        if improved:
            self.run.save_best(self.training, self.about, self.small, scores)
        draw_curves(self.run.history, self.run.curves)
        draw_strip(self.validation.samples(self.training.average), self.run.strip, step=step)

    def _on_save(self) -> None:
        if self.world.is_first:
            self.history.write(self.training.steps, self.training.skipped)
            self.run.save(self.training, self.about, self.small)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What ends training before its time, as a sentence with the next step."""
        try:
            yield
        except Diverged as error:
            self.run.keep_batch(error.crops)
            if self.training.is_finite:
                self._on_save()
            names = ", ".join(self.photos.named(error.step - 1, seed=self.settings.seed, size=self.images)[:4])
            smaller = f"--lr {self.settings.lr / 10:g}"
            then = (
                f"Go on from the last sound state with: srcli train --resume {self.run.folder} {smaller}"
                if self.run.checkpoint.exists()
                else f"Begin again with {smaller}."
            )
            raise SrcliError(f"{error} {self.run.not_finite} holds its crops (of {names}). {then}") from None
        except RuntimeError as error:
            if not (self.settings.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))):
                raise
            reason = str(error).splitlines()[0]
            raise SrcliError(f"torch.compile failed ({reason}). Install a C++ compiler, or leave out --compile.") from None


def read_photos(settings: TrainSettings) -> tuple[Photos, Photos | None]:
    """Photographs to train on and those to validate on. Everything that is wrong with any is an SrcliError."""
    assert settings.photos is not None
    if settings.val is not None and settings.lr_data is not None:
        raise SettingsError("With --lr-data, validation is on some of the pairs: use --val-split in the place of --val.")
    smallest = max(crop_size(settings), smallest_side(settings))
    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("Decoding photographs: {task.completed}")
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("", total=None)

        def read(folder: str, lr_data: str | None = None) -> Photos:
            return Photos.read(
                Path(folder),
                smallest=smallest,
                cache=settings.cache,
                lr_data=Path(lr_data) if lr_data is not None else None,
                scale=settings.generator.scale,
                on_picture=lambda: progress.advance(bar),
            )

        photos = read(settings.photos, settings.lr_data)
        if settings.val is not None:
            return photos, read(settings.val)
    return photos.split(settings.val_split, seed=settings.seed) if settings.val_split else (photos, None)
