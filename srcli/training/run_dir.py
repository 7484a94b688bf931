"""A run folder: the checkpoints to resume from, the model files, the settings and the history of one training run."""

from __future__ import annotations

import csv
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srcli.config import TrainConfig, to_mapping, write_yaml
from srcli.errors import SrcliError
from srcli.io.atomic import atomic_write, directory_lock
from srcli.models.checkpoint import read_torch, save_model
from srcli.training.dataset import TrainBatch
from srcli.training.trainer import Trainer
from srcli.training.validation import Scores
from srcli.version import __version__


@dataclass(frozen=True)
class RunDirectory:
    """The folder and the names of what lies in it."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def model(self) -> Path:
        return self.folder / "model.safetensors"

    @property
    def best(self) -> Path:
        return self.folder / "best.safetensors"

    @property
    def config_file(self) -> Path:
        return self.folder / "settings.yaml"

    @property
    def history(self) -> Path:
        return self.folder / "history.csv"

    @property
    def curves(self) -> Path:
        return self.folder / "curves.png"

    @property
    def sample_grid(self) -> Path:
        return self.folder / "strip.png"

    @property
    def not_finite(self) -> Path:
        return self.folder / "not-finite.npz"

    @property
    def tensorboard(self) -> Path:
        return self.folder / "tensorboard"

    def kept(self) -> list[Path]:
        """Earlier checkpoints, the oldest first."""
        return sorted(path for path in self.folder.glob("checkpoint-*.pt") if re.fullmatch(r"checkpoint-\d+", path.stem))

    def check(self, *, overwrite: bool) -> None:
        """Raises SrcliError where the folder holds a run that is not to be overwritten, or cannot be written."""
        if not overwrite and (self.checkpoint.exists() or self.history.exists() or self.model.exists()):
            raise SrcliError(
                f"{self.folder} holds a run already. Continue it with --resume {self.folder}, choose another -o, "
                "or replace it with --overwrite."
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise SrcliError(f"Cannot write in {self.folder}: {error.strerror}. Choose another -o.") from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the folder for this process while the block runs. Raises SrcliError where another one trains in it."""
        with directory_lock(self.folder) as free:
            if not free:
                raise SrcliError(f"Another process is training in {self.folder}. Wait until it ends, or stop it first.")
            yield

    def create(self, config: TrainConfig, command: str) -> None:
        """Begin a run in the folder: what an earlier one wrote goes."""
        names = (self.checkpoint, self.model, self.best, self.history, self.curves, self.sample_grid, self.not_finite)
        for path in (*names, *self.kept()):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.tensorboard, ignore_errors=True)
        made_by = f"# {command}\n# srcli {__version__}, torch {torch.__version__}, Python {platform.python_version()}\n"
        with atomic_write(self.config_file) as part:
            part.write_text(made_by + write_yaml(config), encoding="utf-8")

    def check_space(self, trainer: Trainer) -> None:
        """Raises SrcliError where the disk has no room for what the run will write."""
        weights = sum(weight.nbytes for weight in trainer.generator.state_dict().values())
        # weights, their average, two moments in the optimizer; each file whole before the one before it goes; images
        needed = 4 * weights * (2 + trainer.config.keep) + 4 * weights + 20_000_000
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise SrcliError(
                f"{self.folder} has {free / 1e6:.0f} MB free and the run needs about {needed / 1e6:.0f} MB. "
                "Make room or choose another -o."
            )

    def save(self, trainer: Trainer, about: dict[str, Any], lr: Tensor) -> None:
        """Write checkpoint and model, each whole or not at all; the model is the averaged generator.

        lr: small images from which the model learns how to run in 8 bits.
        Raises SrcliError where the weights are not finite: what was written before stays.
        """
        if not trainer.is_finite:
            raise SrcliError(
                f"The weights are not finite after step {trainer.steps}, so nothing was written; "
                f"the last checkpoint in {self.folder} is sound. Start again with a smaller --lr."
            )
        keep = trainer.config.keep
        if keep and self.checkpoint.exists():
            before = read_torch(self.checkpoint)["steps"]
            if before != trainer.steps:
                _duplicate(self.checkpoint, self.folder / f"checkpoint-{before:08d}.pt")
        with atomic_write(self.checkpoint) as part:
            torch.save({"settings": to_mapping(trainer.config), "about": about, **trainer.state()}, part)
        for path in self.kept()[: -keep or None]:
            path.unlink()
        self._save_model(self.model, trainer, about, lr)

    def save_best(self, trainer: Trainer, about: dict[str, Any], lr: Tensor, scores: Scores) -> None:
        """Write the averaged generator as the best so far. lr: as in `save`."""
        figures = {"val_psnr": scores.psnr, "val_ssim": scores.ssim, "val_loss": scores.loss}
        self._save_model(self.best, trainer, about | figures, lr)

    def _save_model(self, path: Path, trainer: Trainer, about: dict[str, Any], lr: Tensor) -> None:
        config = to_mapping(trainer.config.portable())
        versions = {"torch": torch.__version__, "python": platform.python_version()}
        save_model(
            path,
            trainer.average,
            trainer.config.generator,
            about | {"steps": trainer.steps, "settings": config} | versions,
            lr,
        )

    def load(self, checkpoint: Path | None = None) -> dict[str, Any]:
        """The last checkpoint, or the one named. Raises SrcliError where there is none."""
        path = checkpoint or self.checkpoint
        if not path.is_file():
            raise SrcliError(f"{self.folder} holds no {path.name}, so there is no run to resume. Check the folder's name.")
        state = read_torch(path)
        if not {"settings", "about", "generator", "optimizer", "steps"} <= state.keys():
            raise SrcliError(f"{path} is no checkpoint of srcli train. Give the folder of a run.")
        return state

    def truncate_history(self, step: int) -> None:
        """Take out of the history what came after `step`, and remove files that were never finished."""
        for part in self.folder.glob(".*.part*"):
            part.unlink()
        if self.history.exists():
            header, *rows = self.history.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [row for row in rows if row.endswith("\n") and int(row.split(",")[0]) <= step]
            with atomic_write(self.history) as part:
                part.write_text(header + "".join(kept), encoding="utf-8")

    def save_failing_batch(self, crops: TrainBatch) -> None:
        """Write the crops of a step whose loss was not finite."""
        lr = np.empty(0) if crops.lr is None else crops.lr
        with atomic_write(self.not_finite) as part:
            np.savez_compressed(part, hr=crops.hr, lr=lr, augmentations=crops.augmentations)

    def write_row(self, row: dict[str, float | str]) -> None:
        """Append a row to the history; the first one names the columns."""
        new = not self.history.exists()
        with self.history.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            os.fsync(file.fileno())


def _duplicate(path: Path, other: Path) -> None:
    """A second name for the file, or a copy where the file system has no second names."""
    other.unlink(missing_ok=True)
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)
