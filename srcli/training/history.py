"""The history of a run: rows of metrics for history.csv and TensorBoard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

from srcli.config import LOSS_TERMS, TrainConfig
from srcli.errors import SrcliError
from srcli.training.run_dir import RunDirectory
from srcli.training.trainer import Step
from srcli.training.validation import Scores

LOG_INTERVAL = 100
"""Steps per row of the history. A validation or a checkpoint ends a row early."""


class History:
    """Collects steps into rows of RUN/history.csv, and optionally logs them to TensorBoard."""

    def __init__(self, run: RunDirectory, config: TrainConfig, *, images: int, epoch: Callable[[int], float]) -> None:
        """images: crops per step of all processes. epoch: of a step.

        Raises SrcliError if TensorBoard is requested but not installed.
        """
        self.run = run
        self.images = images
        self.epoch = epoch
        self.terms = [name for name in LOSS_TERMS if getattr(config.loss, name)]
        self.steps: list[Step] = []
        """Since the last row."""
        self.skipped = 0
        """Steps that were skipped since the start."""
        self.board_class = _board_class() if config.log == "tensorboard" else None
        self.board: Any = None

    def add(self, step: Step, skipped: int) -> None:
        """Add a step. skipped: number of skipped steps since the start.

        Every LOG_INTERVAL steps, a row is due, but it is written with the next step: a validation may still belong to it.
        """
        if self.steps and self.steps[-1].number % LOG_INTERVAL == 0:
            self.write(self.steps[-1].number)
        self.steps.append(step)
        self.skipped = skipped

    def pending(self) -> list[dict[str, Any]]:
        """The steps since the last row, as plain values for the checkpoint."""
        return [asdict(step) for step in self.steps]

    def restore(self, pending: list[dict[str, Any]], skipped: int) -> None:
        self.steps, self.skipped = [Step(**step) for step in pending], skipped

    def write(self, number: int, scores: tuple[Scores, Scores] | None = None) -> None:
        """Write a row for the steps since the last row up to step `number`.

        scores: of a validation, and of bicubic interpolation. Every row has all columns; unknown values are empty.
        """
        if not self.steps and scores is None:
            return
        steps, self.steps = self.steps, []
        finite = [step for step in steps if not step.skipped]
        seconds = sum(step.seconds for step in steps)
        row: dict[str, float | str] = {
            "step": number,
            "epoch": _rounded(self.epoch(number)),
            "lr": _mean([step.lr for step in steps[-1:]]),
            "loss": _mean([step.total for step in finite]),
            **{name: _mean([step.terms[name] for step in finite]) for name in self.terms},
            **{f"{name}_weighted": _mean([step.weighted[name] for step in finite]) for name in self.terms},
            "images_per_second": _rounded(self.images * len(steps) / seconds) if seconds else "",
            "data_wait": _rounded(sum(step.waited for step in steps) / seconds) if seconds else "",
            "skipped": self.skipped,
        }
        for name, place in (("val", 0), ("bicubic", 1)):
            row |= (
                {f"{name}_{metric}": _rounded(value) for metric, value in asdict(scores[place]).items()}
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


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _mean(values: list[float]) -> float | str:
    return _rounded(sum(values) / len(values)) if values else ""


def _board_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise SrcliError("TensorBoard is not installed. Install it: pip install tensorboard") from None
    return SummaryWriter
