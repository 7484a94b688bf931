"""The folder of a training run: checkpoints, model files, settings and history."""

from __future__ import annotations

import csv
import os
import platform
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch

from srcli.config import TrainConfig, from_mapping, to_mapping
from srcli.errors import SrcliError
from srcli.io.atomic import atomic_write, path_lock, remove_all_stale_temp_files, write_text
from srcli.models.checkpoint import read_torch
from srcli.training.dataset import TrainBatch
from srcli.training.schedule import is_over
from srcli.training.settings import is_settings_of_run, write_yaml
from srcli.training.trainer import Trainer
from srcli.version import __version__

NOT_DECISIVE = ("cache", "device", "save_every", "keep", "max_time", "log", "mirror")
"""Settings that do not influence the result of a run."""


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
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    def snapshot(self, step: int) -> Path:
        """The images of a validation."""
        return self.samples / f"{step:08d}.jpg"

    def snapshots(self) -> dict[int, Path]:
        """The images of validations by their steps."""
        return {int(path.stem): path for path in self.samples.glob("*.jpg") if path.stem.isdecimal()}

    @property
    def not_finite(self) -> Path:
        return self.folder / "not-finite.npz"

    @property
    def tensorboard(self) -> Path:
        return self.folder / "tensorboard"

    def kept(self) -> list[Path]:
        """Earlier checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("checkpoint-*.pt") if re.fullmatch(r"checkpoint-\d+", path.stem))

    def files(self) -> list[Path]:
        """What training writes, as far as it exists."""
        models = (self.checkpoint, self.model, self.best, *self.kept())
        shown = (self.curves, self.sample_grid, self.samples, self.report, self.tensorboard)
        return [path for path in (*models, self.config_file, self.history, *shown, self.not_finite) if os.path.lexists(path)]

    @property
    def without_checkpoint(self) -> bool:
        """Whether srcli began a run in the folder that ended before its first checkpoint."""
        return not self.checkpoint.exists() and is_settings_of_run(self.config_file)

    def unfinished(self, config: TrainConfig) -> dict[str, Any] | None:
        """The state in the last checkpoint, if it belongs to a run with this config that has steps left."""
        if not self.checkpoint.is_file():
            return None
        state = self.load()
        return state if is_same_run(state, config) and not is_finished(state, config) else None

    def check(self, *, overwrite: bool) -> None:
        """Raise SrcliError if the folder contains files that may not be overwritten, or cannot be written."""
        found = self.files()
        if not overwrite and self.checkpoint in found:
            raise SrcliError(
                f"{self.folder} already contains a run. Use `resume={self.folder}` to continue it, `overwrite` to replace it, "
                "or another `output`."
            )
        if not overwrite and found and not self.without_checkpoint:
            raise SrcliError(
                f"{self.folder} contains {found[0].name}, which training would replace. Choose another `output`, "
                "or use `overwrite` to replace it."
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
        with path_lock(self.folder) as free:
            if not free:
                raise SrcliError(f"Another process is training in {self.folder}. Wait until it ends, or stop it first.")
            yield

    def create(self, config: TrainConfig, command: str) -> None:
        """Start a new run in the folder. Removes the files of an earlier run."""
        remove_all_stale_temp_files(self.folder)
        # the settings last, as they say whose the other files are if the process is killed now
        for path in sorted(self.files(), key=lambda path: path == self.config_file):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        made_by = f"# {command}\n# srcli {__version__}, torch {torch.__version__}, Python {platform.python_version()}\n"
        write_text(self.config_file, made_by + write_yaml(config))

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

    def save_checkpoint(
        self,
        trainer: Trainer,
        about: dict[str, Any],
        history: Sequence[dict[str, Any]] = (),
        positions: Sequence[Sequence[int]] = (),
    ) -> None:
        """Write the checkpoint atomically. history: the steps that are not in the history yet. positions: how far each process
        has read photographs that are read in chunks.

        Raises SrcliError if the weights are not finite, and keeps the previous checkpoint.
        """
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
            state = {"settings": to_mapping(trainer.config), "about": about, "history": list(history), **trainer.state()}
            torch.save(state | ({"positions": [list(each) for each in positions]} if positions else {}), part)
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
        """Remove what came after `step` from the history and the samples, and files that a killed process left incomplete.

        Raises SrcliError if the history is damaged.
        """
        for folder in (self.folder, self.samples):
            remove_all_stale_temp_files(folder)
        for later in (path for at, path in self.snapshots().items() if at > step):
            later.unlink()
        if not self.history.exists():
            return
        try:
            header, *rows = self.history.read_text(encoding="utf-8").splitlines(keepends=True)
            if not header.startswith("step,"):
                raise ValueError
            kept = [row for row in rows if row.endswith("\n") and int(row.split(",")[0]) <= step]
        except ValueError:
            raise SrcliError(f"{self.history} is damaged. Restore it, or move it away to begin a new one.") from None
        write_text(self.history, header + "".join(kept))

    def save_failing_batch(self, batch: TrainBatch) -> None:
        """Save the crops of a step whose loss was not finite."""
        lr = np.empty(0) if batch.lr is None else batch.lr
        with atomic_write(self.not_finite) as part:
            np.savez_compressed(part, hr=batch.hr, lr=lr, augmentations=batch.augmentations)

    def write_row(self, row: dict[str, float | str]) -> None:
        """Append a row to the history. The first row writes the header."""
        new = not self.history.exists()
        try:
            with self.history.open("a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(row))
                if new:
                    writer.writeheader()
                writer.writerow(row)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SrcliError(
                f"Cannot write {self.history}: {error.strerror}. Then continue with `resume={self.folder}`."
            ) from None


def is_same_run(state: dict[str, Any], config: TrainConfig) -> bool:
    """Whether a checkpoint is of a run with this config, apart from settings that do not influence the result."""
    before = from_mapping(TrainConfig, state["settings"], "The checkpoint")
    return replace(before, **{name: getattr(config, name) for name in NOT_DECISIVE}) == config


def is_finished(state: dict[str, Any], config: TrainConfig) -> bool:
    """Whether the run of a checkpoint has taken all its steps, or used all its time."""
    return is_over(config, steps=state["steps"], elapsed=state.get("elapsed", 0.0))


def _duplicate(path: Path, other: Path) -> None:
    """A hard link to the file, or a copy if the file system has no hard links."""
    other.unlink(missing_ok=True)
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)
