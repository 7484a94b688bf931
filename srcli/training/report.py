"""RUN/report.html and the plots of a run: curves, settings, speed, and how validation photographs looked at earlier steps."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from srcli.config import TrainConfig, to_mapping
from srcli.core.device import describe_device, peak_memory
from srcli.errors import counted, duration
from srcli.io.atomic import atomic_write, write_text
from srcli.io.html import data_url, png, render
from srcli.training.plots import Rows, curves_as_svg, draw_curves, draw_sample_grid, read_history
from srcli.training.run_dir import RunDirectory
from srcli.training.settings import HELP, SECTIONS, write_yaml
from srcli.training.trainer import Trainer
from srcli.training.validation import Sample, Validation

SIDE = 192
"""Largest side in pixels of the part of a photograph on the page."""

MOST_SNAPSHOTS = 24
"""Steps whose images are kept. With SIDE, the number of samples and QUALITY, this limits the page to 15 MB; 2 are usual."""

QUALITY = 93
"""Of JPEG."""


class RunReport:
    """Shows a run in its folder: curves.png, strip.png, samples and report.html."""

    def __init__(
        self, directory: RunDirectory, config: TrainConfig, validation: Validation | None, *, command: str, data: str
    ) -> None:
        """data: a sentence on the photographs."""
        self.directory, self.config, self.validation = directory, config, validation
        self.command, self.data = command, data

    def add_snapshot(self, samples: Sequence[Sample], step: int) -> None:
        """Draw the images of a validation and keep them for the page, which shows up to MOST_SNAPSHOTS steps."""
        draw_sample_grid(samples, self.directory.sample_grid, step=step)
        with atomic_write(self.directory.snapshot(step)) as part:
            part.write_bytes(_jpeg(_stack(samples, "sr")))
        kept = self.directory.snapshots()
        for superfluous in set(kept) - set(thinned(sorted(kept), MOST_SNAPSHOTS)):
            kept[superfluous].unlink()

    def write(self, trainer: Trainer, state: str) -> None:
        """Write the plots and the page. state: `training`, or how training ended."""
        rows = read_history(self.directory.history)
        curves: dict[str, str] = {}
        if rows and trainer.steps:  # before the first step, there is no curve
            draw_curves(rows, self.directory.curves)
            curves = curves_as_svg(rows)
        page = render(
            "training/report.html",
            title=f"{self.directory.folder.resolve().name}, training of {_network(self.config)}",
            state=f"{state[0].upper()}{state[1:]}: {_progress(trainer)}.",
            facts=self._facts(trainer, rows),
            scores=_scores(rows),
            curves=curves,
            settings=_changed(self.config),
            yaml=write_yaml(self.config),
            **self._images(trainer, rows),
        )
        write_text(self.directory.report, page)

    def _facts(self, trainer: Trainer, rows: Rows) -> dict[str, str]:
        facts = {
            "network": f"{_network(self.config)}, {sum(weight.numel() for weight in trainer.generator.parameters()):,} weights",
            "photographs": self.data,
            "device": describe_device(trainer.device),
            "precision": str(trainer.autocast).removeprefix("torch."),
        }
        if trainer.world.size > 1:
            facts["processes"] = str(trainer.world.size)
        fast = next((row for row in reversed(rows) if row["images_per_second"]), None)
        if fast is not None:
            images = float(fast["images_per_second"])
            facts["speed"] = (
                f"{images:.3g} crops of {self.config.patch}x{self.config.patch} per second "
                f"({images * self.config.patch**2 / 1e6:.3g} megapixels); "
                f"{float(fast['data_wait']):.0%} of the time went into waiting for data"
            )
        memory = peak_memory()
        if memory is not None:
            facts["peak memory"] = f"{memory / 1e6:,.0f} MB"
        if trainer.skipped:
            facts["skipped"] = f"{counted(trainer.skipped, 'step')} with a loss that was not finite"
        facts["command"] = self.command
        return facts

    def _images(self, trainer: Trainer, rows: Rows) -> dict[str, Any]:
        """The parts of the samples for the page, of each kind one image with all samples from top to bottom."""
        kept = self.directory.snapshots()
        if self.validation is None or not kept:
            return {"names": [], "still": {}, "snapshots": [], "side": 0}
        samples = self.validation.samples(trainer.average)
        still = {"lr": data_url(png(_stack(samples, "lr")))}
        still |= {kind: data_url(_jpeg(_stack(samples, kind))) for kind in ("bicubic", "hr")}
        scores = {row["step"]: row["val_psnr"] for row in rows if row["val_psnr"]}
        snapshots = [
            {
                "label": f"step {step}" + (f": {float(scores[str(step)]):.2f} dB" if str(step) in scores else ""),
                "image": data_url(path.read_bytes()),
            }
            for step, path in sorted(kept.items())
        ]
        return {"names": [sample.name for sample in samples], "still": still, "snapshots": snapshots, "side": _side(samples)}


def thinned(steps: Sequence[int], most: int) -> list[int]:
    """At most so many of the ascending steps, the first and the last among them, about evenly distributed."""
    kept = list(steps)
    while len(kept) > max(2, most):
        gaps = [after - before for before, after in zip(kept, kept[2:], strict=False)]
        del kept[1 + gaps.index(min(gaps))]
    return kept


def _side(samples: Sequence[Sample]) -> int:
    """The largest side that all samples have, a multiple of the scale."""
    scale = _scale(samples[0])
    return min(SIDE // scale, *(int(min(sample.lr.shape[:2])) for sample in samples)) * scale


def _scale(sample: Sample) -> int:
    return int(sample.hr.shape[0] // sample.lr.shape[0])


def _stack(samples: Sequence[Sample], kind: str) -> np.ndarray:
    """The same part of the center of each image of a kind, H x W x 3, from top to bottom."""
    scale = 1 if kind == "lr" else _scale(samples[0])
    side = _side(samples) // _scale(samples[0])
    parts: list[np.ndarray] = []
    for sample in samples:
        top, left = ((whole - side) // 2 * scale for whole in sample.lr.shape[:2])
        parts.append(getattr(sample, kind)[top : top + side * scale, left : left + side * scale])
    return np.concatenate(parts)


def _jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()


def _network(config: TrainConfig) -> str:
    generator = config.generator
    return f"{generator.architecture} x{generator.scale}, {generator.channels} channels, {counted(generator.blocks, 'block')}"


def _progress(trainer: Trainer) -> str:
    config = trainer.config
    of = f" of {config.steps}" if config.train_for is None else f", {config.train_for} in all"
    since = f" since step {trainer.schedule_start}" if trainer.schedule_start else ""
    return f"step {trainer.steps}{of}, {duration(trainer.elapsed)}{since}"


def _scores(rows: Rows) -> list[tuple[str, str, str, str]]:
    """Rows of a table: what, PSNR, SSIM and loss."""
    validations = [row for row in rows if row["val_loss"]]
    if not validations:
        return []
    best, last = min(validations, key=lambda row: float(row["val_loss"])), validations[-1]

    def cells(row: dict[str, str], name: str) -> tuple[str, str, str]:
        return f"{float(row[f'{name}_psnr']):.2f} dB", f"{float(row[f'{name}_ssim']):.4f}", f"{float(row[f'{name}_loss']):.5g}"

    return [
        (f"best, step {best['step']}", *cells(best, "val")),
        (f"last, step {last['step']}", *cells(last, "val")),
        ("bicubic interpolation", *cells(last, "bicubic")),
    ]


def _changed(config: TrainConfig) -> list[tuple[str, str, str]]:
    """Name, value and meaning of the settings that differ from the defaults."""
    flat, default = (_flat(to_mapping(one)) for one in (config, TrainConfig(generator=type(config.generator)())))
    names = [name for name, value in flat.items() if value != default.get(name)]
    return [(name, str(flat[name]), HELP[name].replace("`", "")) for name in names]


def _flat(mapping: dict[str, Any]) -> dict[str, Any]:
    flat = {name: value for name, value in mapping.items() if name not in SECTIONS}
    return flat | {name: value for section in SECTIONS for name, value in mapping[section].items()}
