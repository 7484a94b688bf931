"""A run folder: the checkpoint to resume from, the model file, the settings and the history of one training run."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from srcli.errors import SrcliError
from srcli.files import written_whole
from srcli.models import read_torch, save_model
from srcli.settings import TrainSettings, to_mapping, write_yaml
from srcli.training import Step, Training


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
    def history(self) -> Path:
        return self.folder / "history.csv"

    def create(self, settings: TrainSettings) -> None:
        """Make the folder and find out that it can be written. Raises SrcliError where an earlier run is in it."""
        if self.checkpoint.exists():
            raise SrcliError(
                f"{self.folder} holds a run already. Continue it with --resume {self.folder}, or choose another -o."
            )
        with written_whole(self.folder / "settings.yaml") as part:
            part.write_text(write_yaml(settings), encoding="utf-8")

    def save(self, training: Training, about: dict[str, Any]) -> None:
        """Write checkpoint and model, each whole or not at all; the model is the averaged generator."""
        with written_whole(self.checkpoint) as part:
            torch.save({"settings": to_mapping(training.settings), "about": about, **training.state()}, part)
        about = {name: value for name, value in about.items() if name != "photos"}  # nobody else's folder
        about |= {"steps": training.steps, "settings": to_mapping(training.settings), "torch": torch.__version__}
        save_model(self.model, training.average, training.settings.generator, about)

    def load(self) -> dict[str, Any]:
        """The last checkpoint; the history forgets what came after it. Raises SrcliError where there is none."""
        if not self.checkpoint.is_file():
            raise SrcliError(f"{self.folder} holds no checkpoint.pt, so there is no run to resume. Check the folder's name.")
        state = read_torch(self.checkpoint)
        if self.history.exists():
            header, *rows = self.history.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [row for row in rows if row.endswith("\n") and int(row.split(",")[0]) <= state["steps"]]
            with written_whole(self.history) as part:
                part.write_text(header + "".join(kept), encoding="utf-8")
        return state

    def log(self, steps: list[Step]) -> None:
        """Append to the history: one line for these steps, with the mean of each figure."""
        if not steps:
            return
        row = {
            "step": steps[-1].number,
            "lr": f"{steps[-1].lr:.6g}",
            "loss": f"{sum(step.total for step in steps) / len(steps):.6g}",
            **{name: f"{sum(step.terms[name] for step in steps) / len(steps):.6g}" for name in steps[0].terms},
        }
        new = not self.history.exists()
        with self.history.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            os.fsync(file.fileno())
