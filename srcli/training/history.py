"""The history of a run: rows of figures for history.csv and TensorBoard."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from srcli.config import LOSS_TERMS, TrainConfig
from srcli.errors import SrcliError
from srcli.training.run_dir import RunDirectory
from srcli.training.trainer import Step
from srcli.training.validation import Scores

LOG_INTERVAL = 100
"""Steps in a row of the history, unless a validation or the writing of a checkpoint ends it before."""


class History:
    """Gathers steps into rows of RUN/history.csv, and writes them for TensorBoard where that is wanted."""

    def __init__(self, run: RunDirectory, config: TrainConfig, *, images: int, crops: int) -> None:
        """images: crops in one step of all processes. crops: in an epoch.

        Raises SrcliError where TensorBoard is wanted and not there.
        """
        self.run = run
        self.images = images
        self.crops = crops
        self.terms = [name for name in LOSS_TERMS if getattr(config.loss, name)]
        self.steps: list[Step] = []
        self.board_class = _board_class() if config.log == "tensorboard" else None
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
