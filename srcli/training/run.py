"""One training run, from its config to its end: reads photographs, takes steps, writes files, reports progress."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srcli.config import TrainConfig, seconds, to_mapping
from srcli.core.device import pick_device
from srcli.core.losses import WeightedLoss
from srcli.errors import ConfigError, SrcliError, counted, unexpected
from srcli.models.checkpoint import load_generator, save_model
from srcli.models.perceptual import FeatureLoss
from srcli.models.registry import describe_model
from srcli.training.dataset import PhotoDataset, TrainBatch, prefetched, shortened
from srcli.training.distributed import init_distributed, local_device
from srcli.training.folder import ignored
from srcli.training.gather import Batch
from srcli.training.history import History
from srcli.training.loop import DivergedError, Ending
from srcli.training.loop import train as train_steps
from srcli.training.mirror import Mirror
from srcli.training.photos import FEW_TO_VALIDATE, Reading, read_photos, too_large
from srcli.training.progress import NoProgress, TrainingProgress
from srcli.training.report import RunReport
from srcli.training.run_dir import RunDirectory
from srcli.training.settings import merge, read_yaml
from srcli.training.stream import StreamedPhotos
from srcli.training.teacher import Teacher
from srcli.training.trainer import Step, Trainer, crop_size
from srcli.training.validation import Sample, Scores, Validation

DRAW_INTERVAL = 10.0
"""Seconds in which a run is drawn once at most, except at its end."""

CALIBRATION_PIXELS, CALIBRATION_BATCHES = 100_000, 4
"""Pixels of LR images for int8 calibration, and the batches that they are made in, each degraded in another way."""


class TrainingRun:
    """A run that is ready for its next step: everything that can be wrong has been checked. See `begin` and `resume`."""

    def __init__(
        self,
        directory: RunDirectory,
        config: TrainConfig,
        about: dict[str, Any],
        state: dict[str, Any] | None,
        progress: TrainingProgress,
    ) -> None:
        """about: goes into the model file. state: of a checkpoint to resume from."""
        self.directory, self.config, self.about = directory, config, about
        device = pick_device(local_device(config.device))
        self.world = init_distributed(device)
        self.progress = progress if self.world.is_first else NoProgress()
        self.mirror = Mirror(directory, config.mirror)
        self.lock = ExitStack()  # on the run folder, from the first change in it until training ends
        self.trainer = self._make_trainer(device, state)
        self.trainer.on_message = self.progress.message
        teacher = Teacher(config, device) if config.teacher is not None else None
        self.photos, held_out = self._read_photos(state)
        if teacher is not None and isinstance(self.photos, PhotoDataset):
            self.photos = self._labeled(teacher, self.photos)
        self.calibration_images = self._calibration_images()
        for sentence in self.trainer.use_gpu(self.photos if isinstance(self.photos, PhotoDataset) else None):
            self.progress.message(sentence)
        images = config.batch * self.world.size
        self.history = History(directory, config, images=images, epoch=self._epoch)
        validates = held_out is not None and self.world.is_first
        self.validation = Validation(held_out, config, self.trainer.loss, device) if validates and held_out else None
        data = f"{self.photos.description}, and {len(held_out or ())} to validate on"
        self.drawn = float("-inf") if self.validation else time.monotonic()
        self.report = RunReport(directory, config, self.validation, command=about["command"], data=data)
        self.progress.message(
            f"{data}; {config.generator.architecture} x{config.generator.scale} on {device}, "
            f"{str(self.trainer.autocast).removeprefix('torch.')}."
        )

    @classmethod
    def begin(
        cls,
        directory: RunDirectory,
        config: TrainConfig,
        command: str,
        *,
        overwrite: bool,
        progress: TrainingProgress = NoProgress(),  # noqa: B008, has no state
    ) -> TrainingRun:
        """A new run. Raises SrcliError if anything is wrong, and then leaves an earlier run in the folder unchanged."""
        device = pick_device(local_device(config.device))
        init_distributed(device).from_first(lambda: directory.check(overwrite=overwrite), device)
        run = cls(directory, config, {"command": command}, None, progress)
        if run.world.is_first:
            directory.check_space(run.trainer)
            with ExitStack() as lock:
                lock.enter_context(directory.locked())
                directory.create(config, command)
                run.lock = lock.pop_all()
        return run

    @classmethod
    def begin_or_continue(
        cls,
        directory: RunDirectory,
        config: TrainConfig,
        command: str,
        *,
        overwrite: bool,
        progress: TrainingProgress = NoProgress(),  # noqa: B008, has no state
    ) -> TrainingRun:
        """Continue an unfinished run with the same config, or else begin a new one."""
        device = pick_device(local_device(config.device))
        world = init_distributed(device)
        # the folder of the first process counts, as others may be on other machines
        state = world.from_first(lambda: None if overwrite else Mirror(directory, config.mirror).newest(config), device)
        if state is None:
            return cls.begin(directory, config, command, overwrite=overwrite, progress=progress)
        if world.is_first:
            progress.message(f"{directory.folder} contains this run up to step {state['steps']}; continuing it.")
        return cls.resume(directory, config, state, progress=progress)

    @classmethod
    def resume(
        cls,
        directory: RunDirectory,
        config: TrainConfig,
        state: dict[str, Any],
        *,
        extend: bool = False,
        progress: TrainingProgress = NoProgress(),  # noqa: B008, has no state
    ) -> TrainingRun:
        """Resume from the state in a checkpoint. config: may differ from the checkpoint's in what the user changed.

        extend: begin a new schedule, as the run had finished with fewer steps or less time.
        """
        run = cls(directory, config, state["about"], state, progress)
        if extend:
            run.trainer.schedule_start, run.trainer.elapsed = run.trainer.steps, 0.0
        if run.world.is_first:
            directory.check_space(run.trainer)
            with ExitStack() as lock:
                lock.enter_context(directory.locked())
                directory.truncate_history(run.trainer.steps)
                run.history.restore(state.get("history", []), run.trainer.skipped)
                run.lock = lock.pop_all()
        return run

    def train(self, *, interrupted: Callable[[], bool]) -> Ending:
        """Train until the last step, until patience or time run out, or until interrupted. Reports how it ended."""
        began = time.monotonic()
        limit = seconds(self.config.max_time) if self.config.max_time is not None else float("inf")
        images = self.config.batch * self.world.size
        self.progress.start(
            steps=None if self.config.train_for else self.config.steps,
            seconds=seconds(self.config.train_for) if self.config.train_for else None,
            done=self.trainer.steps,
            elapsed=self.trainer.elapsed,
            images_per_step=images,
        )
        try:
            with self._errors_explained():
                ending = train_steps(
                    self.trainer,
                    prefetched(self._input, self.trainer.steps),
                    on_step=self._on_step,
                    on_save=self._on_save,
                    validate=self.validation.measure if self.validation else None,
                    on_scores=self._on_scores,
                    stop=lambda: interrupted() or time.monotonic() - began > limit,
                )
        finally:
            self.progress.stop()
            self.lock.close()
            if isinstance(self.photos, StreamedPhotos):
                self.photos.close()
            self.trainer.shutdown()
        if self.world.is_first:
            self._show({"done": "finished", "stopped": "stopped", "patience": "ended without further improvement"}[ending])
            self.mirror.push()
        self._report(ending, timed_out=not interrupted())
        return ending

    def _make_trainer(self, device: torch.device, state: dict[str, Any] | None) -> Trainer:
        config, loss = self.config, self.config.loss
        feature = FeatureLoss(loss.layers, loss.distance, config.vgg) if loss.needs_vgg else None
        trainer = Trainer(config, WeightedLoss(loss, feature, config.generator.scale), device, self.world)
        if state is not None:
            trainer.restore(state)
        elif config.init is not None:
            source = load_generator(config.init)
            trainer.initialize_from(source)
            if source.scale != config.generator.scale:
                scales = f"x{source.scale} model; its weights are adapted to x{config.generator.scale}"
                self.progress.message(f"{config.init} is an {scales}.")
        return trainer

    def _read_photos(self, state: dict[str, Any] | None) -> tuple[PhotoDataset | StreamedPhotos, PhotoDataset | None]:
        """The photographs to train on and those held out. The first process decodes them for all."""
        why = too_large(self.config) if state is None and self.world.is_first else ""
        positions = (state or {}).get("positions", ())
        chunks: Reading | None = None
        if self.config.cache == "stream" or positions or self.world.any(bool(why), self.trainer.device):
            chunks = Reading(self.world.rank, self.world.size, self.trainer.steps, positions)
        if why:
            self.progress.message(why)
        if positions and len(positions) != self.world.size:
            self.progress.message(f"{counted(len(positions), 'process')} read the photographs before; a new epoch begins.")
        with self.world.first_before_others():
            photos, held_out = read_photos(self.config, self.progress.image_decoded, self.progress.message, chunks=chunks)
        if isinstance(photos, PhotoDataset):
            self._report_left_out(photos)
        else:
            self.progress.message("Reading the first chunk of photographs.")
        if self.world.is_first and held_out is not None and len(held_out) < FEW_TO_VALIDATE:
            self.progress.message(
                f"Only {counted(len(held_out), 'photograph')} to validate on, so scores are rough. Set `val_split` or `val`."
            )
        if self.about.setdefault("photos", photos.fingerprint) != photos.fingerprint:
            self.progress.message(
                f"The photographs in {self.config.photos} have changed since the run began; training continues with them."
            )
        return photos, held_out

    def _labeled(self, teacher: Teacher, photos: PhotoDataset) -> PhotoDataset:
        """The photographs with labels. Each process makes a part of those that are missing; the first decodes all for all."""
        with self.world.first_before_others():
            photos = teacher.with_unlabeled(photos)
        try:
            teacher.make(photos, self.progress.label_made, slice(self.world.rank, None, self.world.size))
        finally:
            self.progress.stop()
        self.world.wait()
        with self.world.first_before_others():
            return teacher.labeled(photos)

    def _report_left_out(self, photos: PhotoDataset) -> None:
        if photos.ignored:
            self.progress.message(f"Left out: {ignored(photos.ignored)}.")
        if photos.left_out:
            self.progress.message(f"Left out {counted(len(photos.left_out), 'image')}; `strict` makes this an error:")
            for sentence in shortened(photos.left_out):
                self.progress.message(sentence)

    def _batch(self, step: int) -> TrainBatch:
        """The crops that this process takes of a step."""
        return self.photos.at(step).batch(step, **self._crop_options())

    def _input(self, step: int) -> Batch:
        """What the trainer gets for a step: the crops, or where they are in photographs that are in the device's memory."""
        resident = self.trainer.pairs.resident
        return self._batch(step) if resident is None else resident.photos.regions(step, **self._crop_options())

    def _crop_options(self) -> dict[str, Any]:
        batch, rank = self.config.batch, self.world.rank
        part = slice(rank * batch, (rank + 1) * batch)
        return {"seed": self.config.seed, "size": batch * self.world.size, "patch": crop_size(self.config), "part": part}

    def _epoch(self, step: int) -> float:
        if isinstance(self.photos, StreamedPhotos):
            return self.photos.epoch(step)
        return step * self.config.batch * self.world.size / max(1, self.photos.crops(self.config.patch))

    def _calibration_images(self) -> Tensor:
        """LR images like those of the first steps: N x 3 x H x W. If photographs are read in chunks, from the first chunk."""
        config, photos = self.config, self.photos.at(self.trainer.steps)
        crops = ceil(CALIBRATION_PIXELS / CALIBRATION_BATCHES / (config.patch // config.generator.scale) ** 2)
        lrs: list[Tensor] = []
        for step in range(CALIBRATION_BATCHES):
            batch = photos.batch(step, seed=config.seed, size=crops, patch=crop_size(config))
            lrs.append(self.trainer.pair(batch, step)[0])
        return torch.cat(lrs)

    def _on_step(self, step: Step) -> None:
        self.progress.step(step, self._epoch(step.number))
        if self.world.is_first:
            self.history.add(step, self.trainer.skipped)

    def _on_scores(self, scores: Scores, improved: bool) -> None:
        assert self.validation is not None
        bicubic, step = self.validation.baseline, self.trainer.steps
        self.progress.scores(scores, bicubic, step=step, improved=improved)
        self.history.write(step, (scores, bicubic))
        if improved:
            metrics = {"val_psnr": scores.psnr, "val_ssim": scores.ssim, "val_loss": scores.loss}
            self._save_model(self.directory.best, self.about | metrics)
        self._show("training", self.validation.samples(self.trainer.average))

    def _on_save(self) -> None:
        positions: Sequence[Sequence[int]] = ()
        if isinstance(self.photos, StreamedPhotos):
            positions = self.world.gather(self.photos.position(self.trainer.steps), self.trainer.device)
        if self.world.is_first:
            step = self.trainer.steps
            if step % self.config.save_every == 0 or self.trainer.is_done:  # not when the user stops training
                self.history.write(step)
            self.directory.save_checkpoint(self.trainer, self.about, self.history.pending(), positions)
            self._save_model(self.directory.model, self.about)
            if self.validation is None:
                self._show("training")
            self.mirror.try_push(self.progress.message)

    def _show(self, state: str, samples: Sequence[Sample] = ()) -> None:
        """Draw the samples of a validation, and the run if it was not just drawn or has ended. No error here ends training."""
        try:
            if samples:
                self.report.add_snapshot(samples, self.trainer.steps)
            if state != "training" or (time.monotonic() - self.drawn > DRAW_INTERVAL and not self.trainer.is_done):
                self.drawn = time.monotonic()
                self.report.write(self.trainer, state)
        except Exception as error:
            reason = error if isinstance(error, SrcliError) else f"{self.directory.report}: {unexpected(error)}"
            self.progress.message(f"The run could not be drawn, but training goes on. {reason}")

    def _save_model(self, path: Path, about: dict[str, Any]) -> None:
        """Write the averaged generator."""
        settings = to_mapping(self.config.portable())
        versions = {"torch": torch.__version__, "python": platform.python_version()}
        about = about | {"steps": self.trainer.steps, "settings": settings} | versions
        save_model(path, self.trainer.average, self.config.generator, about, self.calibration_images)

    def _report(self, ending: Ending, *, timed_out: bool) -> None:
        step = self.trainer.steps
        if self.trainer.skipped:
            self.progress.message(f"{counted(self.trainer.skipped, 'step')} skipped because the loss was not finite.")
        if ending == "stopped":
            why = f" because the time limit of {self.config.max_time} was reached" if timed_out else ""
            self.progress.message(f"Stopped after step {step} and saved{why}.")
        if ending == "patience":
            self.progress.message(f"Ended after step {step}: {self.config.patience} validations without a lower loss.")
        if ending != "stopped" and self.validation is not None and self.directory.best.exists():
            about = describe_model(self.directory.best).about
            bicubic = self.validation.baseline.psnr
            self.progress.message(
                f"The best model is {self.directory.best}, of step {about['steps']}: "
                f"{about['val_psnr']:.2f} dB ({about['val_psnr'] - bicubic:+.2f} to bicubic)."
            )

    @contextmanager
    def _errors_explained(self) -> Iterator[None]:
        """Turn errors that end training early into a sentence with the next step."""
        try:
            yield
        except DivergedError as error:
            self.directory.save_failing_batch(self._batch(error.step - 1))
            if self.trainer.is_finite:
                self._on_save()
            size = self.config.batch * self.world.size
            photos = self.photos.at(error.step - 1)
            names = ", ".join(photos.source_names(error.step - 1, seed=self.config.seed, size=size)[:4])
            lr = f"{self.config.lr / 10:g}"
            then = (
                f"Use `resume={self.directory.folder}` and `lr={lr}` to continue from the last finite state."
                if self.directory.checkpoint.exists()
                else f"Start again with `lr={lr}`."
            )
            raise SrcliError(f"{error} {self.directory.not_finite} contains its crops (from {names}). {then}") from None
        except RuntimeError as error:
            if self.world.has_lost(error):
                raise SrcliError(
                    f"Another process of this run has ended, so this one stopped after step {self.trainer.steps}. "
                    f"Continue from the last checkpoint with `resume={self.directory.folder}`."
                ) from None
            if not (self.config.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))):
                raise
            reason = str(error).splitlines()[0]
            raise SrcliError(f"torch.compile failed ({reason}). Install a C++ compiler, or leave out `compile`.") from None


def train(
    settings: TrainConfig | Mapping[str, Any] | str | Path,
    *,
    overwrite: bool = False,
    progress: TrainingProgress = NoProgress(),  # noqa: B008, has no state
    interrupted: Callable[[], bool] = lambda: False,
) -> Path:
    """Train a generator, as `srcli train` does, and return its model file.

    settings: a `TrainConfig`, a mapping with its keys, or a YAML file; `photos` and `output` must be set. An unfinished run
    with the same settings is continued. overwrite: replace another run in the folder. progress: receives what happens.
    interrupted: called after each step; if it returns true, training saves and stops.
    Raises ConfigError for invalid settings, and SrcliError if anything else is wrong.
    """
    if isinstance(settings, str | Path):
        settings = read_yaml(Path(settings))
    config = settings if isinstance(settings, TrainConfig) else merge(TrainConfig(), settings, "settings")
    if config.photos is None or config.output is None:
        raise ConfigError("Give a folder of photographs and one for the run: set `photos` and `output`.")
    directory = RunDirectory(Path(config.output))
    run = TrainingRun.begin_or_continue(directory, config, "srcli.train", overwrite=overwrite, progress=progress)
    run.train(interrupted=interrupted)
    return directory.model
