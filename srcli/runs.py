"""A run folder: the checkpoints to resume from, the model files, the settings and the history of one training run."""

from __future__ import annotations

import csv
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srcli import __version__
from srcli.errors import SrcliError
from srcli.files import sole_use, written_whole
from srcli.models import read_torch, save_model
from srcli.photos import Crops
from srcli.settings import LOSS_TERMS, TrainSettings, to_mapping, write_yaml
from srcli.training import Step, Training
from srcli.validation import Scores


@dataclass(frozen=True)
class Run:
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
    def settings(self) -> Path:
        return self.folder / "settings.yaml"

    @property
    def history(self) -> Path:
        return self.folder / "history.csv"

    @property
    def curves(self) -> Path:
        return self.folder / "curves.png"

    @property
    def strip(self) -> Path:
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
    def claimed(self) -> Iterator[None]:
        """Keep the folder for this process while the block runs. Raises SrcliError where another one trains in it."""
        with sole_use(self.folder) as free:
            if not free:
                raise SrcliError(f"Another process is training in {self.folder}. Wait until it ends, or stop it first.")
            yield

    def create(self, settings: TrainSettings, command: str) -> None:
        """Begin a run in the folder: what an earlier one wrote goes."""
        names = (self.checkpoint, self.model, self.best, self.history, self.curves, self.strip, self.not_finite)
        for path in (*names, *self.kept()):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.tensorboard, ignore_errors=True)
        made_by = f"# {command}\n# srcli {__version__}, torch {torch.__version__}, Python {platform.python_version()}\n"
        with written_whole(self.settings) as part:
            part.write_text(made_by + write_yaml(settings), encoding="utf-8")

    def check_space(self, training: Training) -> None:
        """Raises SrcliError where the disk has no room for what the run will write."""
        weights = sum(weight.nbytes for weight in training.generator.state_dict().values())
        # weights, their average, two moments in the optimizer; each file whole before the one before it goes; pictures
        needed = 4 * weights * (2 + training.settings.keep) + 4 * weights + 20_000_000
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise SrcliError(
                f"{self.folder} has {free / 1e6:.0f} MB free and the run needs about {needed / 1e6:.0f} MB. "
                "Make room or choose another -o."
            )

    def save(self, training: Training, about: dict[str, Any], lr: Tensor) -> None:
        """Write checkpoint and model, each whole or not at all; the model is the averaged generator.

        lr: small pictures from which the model learns how to run in 8 bits.
        Raises SrcliError where the weights are not finite: what was written before stays.
        """
        if not training.is_finite:
            raise SrcliError(
                f"The weights are not finite after step {training.steps}, so nothing was written; "
                f"the last checkpoint in {self.folder} is sound. Start again with a smaller --lr."
            )
        keep = training.settings.keep
        if keep and self.checkpoint.exists():
            before = read_torch(self.checkpoint)["steps"]
            if before != training.steps:
                _duplicate(self.checkpoint, self.folder / f"checkpoint-{before:08d}.pt")
        with written_whole(self.checkpoint) as part:
            torch.save({"settings": to_mapping(training.settings), "about": about, **training.state()}, part)
        for path in self.kept()[: -keep or None]:
            path.unlink()
        self._save_model(self.model, training, about, lr)

    def save_best(self, training: Training, about: dict[str, Any], lr: Tensor, scores: Scores) -> None:
        """Write the averaged generator as the best so far. lr: as in `save`."""
        figures = {"val_psnr": scores.psnr, "val_ssim": scores.ssim, "val_loss": scores.loss}
        self._save_model(self.best, training, about | figures, lr)

    def _save_model(self, path: Path, training: Training, about: dict[str, Any], lr: Tensor) -> None:
        settings = to_mapping(training.settings.portable())
        versions = {"torch": torch.__version__, "python": platform.python_version()}
        save_model(
            path,
            training.average,
            training.settings.generator,
            about | {"steps": training.steps, "settings": settings} | versions,
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

    def forget_after(self, step: int) -> None:
        """Take out of the history what came after `step`, and remove files that were never finished."""
        for part in self.folder.glob(".*.part*"):
            part.unlink()
        if self.history.exists():
            header, *rows = self.history.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [row for row in rows if row.endswith("\n") and int(row.split(",")[0]) <= step]
            with written_whole(self.history) as part:
                part.write_text(header + "".join(kept), encoding="utf-8")

    def keep_batch(self, crops: Crops) -> None:
        """Write the crops of a step whose loss was not finite."""
        lr = np.empty(0) if crops.lr is None else crops.lr
        with written_whole(self.not_finite) as part:
            np.savez_compressed(part, hr=crops.hr, lr=lr, turns=crops.turns)

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


ROW_EVERY = 100
"""Steps in a row of the history, unless a validation or the writing of a checkpoint ends it before."""


class History:
    """Gathers steps into rows of RUN/history.csv, and writes them for TensorBoard where that is wanted."""

    def __init__(self, run: Run, settings: TrainSettings, *, images: int, crops: int) -> None:
        """images: crops in one step of all processes. crops: in an epoch.

        Raises SrcliError where TensorBoard is wanted and not there.
        """
        self.run = run
        self.images = images
        self.crops = crops
        self.terms = [name for name in LOSS_TERMS if getattr(settings.loss, name)]
        self.steps: list[Step] = []
        self.board_class = _board_class() if settings.log == "tensorboard" else None
        self.board: Any = None

    def epoch(self, step: int) -> float:
        return step * self.images / max(1, self.crops)

    def add(self, step: Step) -> None:
        self.steps.append(step)

    def write(self, number: int, skipped: int, scores: tuple[Scores, Scores] | None = None) -> None:
        """A row for the steps since the last one and up to `number`, with a validation's scores and bicubic's, if any.

        Every row has every column; what is not known is empty. skipped: steps since the beginning.
        """
        if not self.steps and scores is None:
            return
        steps, self.steps = self.steps, []
        sound = [step for step in steps if not step.skipped]
        seconds = sum(step.seconds for step in steps)
        row: dict[str, float | str] = {
            "step": number,
            "epoch": _figures(self.epoch(number)),
            "lr": _mean([step.lr for step in steps[-1:]]),
            "loss": _mean([step.total for step in sound]),
            **{name: _mean([step.terms[name] for step in sound]) for name in self.terms},
            **{f"{name}_weighted": _mean([step.weighted[name] for step in sound]) for name in self.terms},
            "images_per_second": _figures(self.images * len(steps) / seconds) if seconds else "",
            "data_wait": _figures(sum(step.waited for step in steps) / seconds) if seconds else "",
            "skipped": skipped,
        }
        for name, place in (("val", 0), ("bicubic", 1)):
            row |= (
                {f"{name}_{figure}": _figures(value) for figure, value in asdict(scores[place]).items()}
                if scores
                else {f"{name}_{field.name}": "" for field in fields(Scores)}
            )
        self.run.write_row(row)
        if self.board_class is not None:
            self.board = self.board or self.board_class(str(self.run.tensorboard))
            for name, value in row.items():
                if name != "step" and value != "":
                    self.board.add_scalar(name, value, number)
            self.board.flush()


def _figures(value: float) -> float:
    return float(f"{value:.6g}")


def _mean(values: list[float]) -> float | str:
    return _figures(sum(values) / len(values)) if values else ""


def _board_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise SrcliError("TensorBoard is not installed; install it with pip install 'srcli[tensorboard]'.") from None
    return SummaryWriter
