"""The folder of a training run: checkpoints, model files, settings and history."""

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

from srcli.config import TrainConfig, to_mapping, write_yaml
from srcli.errors import SrcliError
from srcli.io.atomic import atomic_write, directory_lock
from srcli.models.checkpoint import read_torch
from srcli.training.dataset import TrainBatch
from srcli.training.trainer import Trainer
from srcli.version import __version__


@dataclass(frozen=True)
class RunDirectory:
    """The folder and its files."""

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
        """Earlier checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("checkpoint-*.pt") if re.fullmatch(r"checkpoint-\d+", path.stem))

    def check(self, *, overwrite: bool) -> None:
        """Raise SrcliError if the folder contains a run that may not be overwritten, or cannot be written."""
        if not overwrite and (self.checkpoint.exists() or self.history.exists() or self.model.exists()):
            raise SrcliError(
                f"{self.folder} already contains a run. Use `resume={self.folder}` to continue it, `overwrite` to replace it, "
                "or another `output`."
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise SrcliError(f"Cannot write to {self.folder}: {error.strerror}. Choose another `output`.") from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder during the block. Raises SrcliError if another process is training in it."""
        with directory_lock(self.folder) as free:
            if not free:
                raise SrcliError(f"Another process is training in {self.folder}. Wait until it ends, or stop it first.")
            yield

    def create(self, config: TrainConfig, command: str) -> None:
        """Start a new run in the folder. Removes the files of an earlier run."""
        names = (self.checkpoint, self.model, self.best, self.history, self.curves, self.sample_grid, self.not_finite)
        for path in (*names, *self.kept()):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.tensorboard, ignore_errors=True)
        made_by = f"# {command}\n# srcli {__version__}, torch {torch.__version__}, Python {platform.python_version()}\n"
        with atomic_write(self.config_file) as part:
            part.write_text(made_by + write_yaml(config), encoding="utf-8")

    def check_space(self, trainer: Trainer) -> None:
        """Raise SrcliError if the disk is too full for the files of the run."""
        weights = sum(weight.nbytes for weight in trainer.generator.state_dict().values())
        # weights, their average, two moments in the optimizer; new files exist next to old ones for a moment; plots
        needed = 4 * weights * (2 + trainer.config.keep) + 4 * weights + 20_000_000
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise SrcliError(
                f"{self.folder} has {free / 1e6:.0f} MB of free space, but the run needs about {needed / 1e6:.0f} MB. "
                "Free some space or choose another `output`."
            )

    def save_checkpoint(self, trainer: Trainer, about: dict[str, Any]) -> None:
        """Write the checkpoint atomically. Raises SrcliError if the weights are not finite, and keeps the previous one."""
        if not trainer.is_finite:
            raise SrcliError(
                f"The weights are not finite after step {trainer.steps}, so they were not saved; "
                f"the last checkpoint in {self.folder} is valid. Start again with a smaller `lr`."
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

    def load(self, checkpoint: Path | None = None) -> dict[str, Any]:
        """The state in the last checkpoint, or in the given one. Raises SrcliError if there is none."""
        path = checkpoint or self.checkpoint
        if not path.is_file():
            raise SrcliError(f"{self.folder} contains no {path.name}, so there is no run to resume. Check the path.")
        state = read_torch(path)
        if not {"settings", "about", "generator", "optimizer", "steps"} <= state.keys():
            raise SrcliError(f"{path} is not a checkpoint of srcli train. Give the folder of a run.")
        return state

    def truncate_history(self, step: int) -> None:
        """Remove rows after `step` from the history, and incomplete files."""
        for part in self.folder.glob(".*.part*"):
            part.unlink()
        if self.history.exists():
            header, *rows = self.history.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [row for row in rows if row.endswith("\n") and int(row.split(",")[0]) <= step]
            with atomic_write(self.history) as part:
                part.write_text(header + "".join(kept), encoding="utf-8")

    def save_failing_batch(self, batch: TrainBatch) -> None:
        """Save the crops of a step whose loss was not finite."""
        lr = np.empty(0) if batch.lr is None else batch.lr
        with atomic_write(self.not_finite) as part:
            np.savez_compressed(part, hr=batch.hr, lr=lr, augmentations=batch.augmentations)

    def write_row(self, row: dict[str, float | str]) -> None:
        """Append a row to the history. The first row writes the header."""
        new = not self.history.exists()
        with self.history.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            os.fsync(file.fileno())


def _duplicate(path: Path, other: Path) -> None:
    """A hard link to the file, or a copy if the file system has no hard links."""
    other.unlink(missing_ok=True)
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)
