"""Everything to find out on a borrowed GPU, in one command that ends in time.

    python benchmarks/gpu.py PHOTOS -o OUT --minutes 15 [--bench BENCH] [--teacher MODEL] [--ladder NAME ...] [--only STAGE ...]

Stages, in this order; each writes its figures before the next begins, and what is left of the minutes goes to training:

tests       the tests that need a GPU
upscale     shipped models on the GPU compared with the CPU: time, and the largest difference in gray levels
throughput  how fast `srcli train` takes the steps of each recipe, how busy the GPU is, and its share of the peak
train       the recipes of the ladder, one after the other, each for its share of the time

OUT gets figures.json, figures.md, the output of the tests, NAME.safetensors for each recipe, and the runs. PHOTOS may be a
folder that pack_photos.py made. BENCH contains Set5 and so on, on which the models are measured. A teacher's labels are made
before the first recipe, and count in the minutes, but are not interrupted. --device cpu is for trying the command.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality import SETS, hr_images, quantized, score
from train_throughput import loop_speed

from srcli.config import CompactConfig, GeneratorConfig, ResidualConfig, TrainConfig
from srcli.core.degradation import bicubic
from srcli.core.device import pick_device
from srcli.errors import SrcliError
from srcli.inference.backend import load_model
from srcli.inference.upscale import upscale
from srcli.io.atomic import atomic_write
from srcli.io.image import Image
from srcli.io.read import read_srgb
from srcli.models.checkpoint import load_generator
from srcli.models.registry import describe_model
from srcli.training.dataset import PhotoDataset
from srcli.training.run import train
from srcli.training.trainer import crop_size

STAGES = ("tests", "upscale", "throughput", "train")
PHOTO = Path(__file__).parents[1] / "examples" / "photos" / "astronaut.png"
ROOT = Path(__file__).parents[1]
MODELS = ("tiny-x4", "base-x4", "large-x4")
TESTS_SHARE, THROUGHPUT_SHARE = 0.25, 0.1
"""Of all minutes, at most."""

RESERVE = 20.0
"""Seconds of a recipe's time, at most a fifth of it, for loading and measuring."""


@dataclass(frozen=True)
class Recipe:
    """A network, and its share of the time for training relative to the others."""

    generator: GeneratorConfig
    share: float
    changes: dict[str, Any] = field(default_factory=dict)


LADDER = {
    "residual-x4-32x8": Recipe(ResidualConfig(scale=4, channels=32, blocks=4), 1),
    "residual-x4-48x8": Recipe(ResidualConfig(scale=4, channels=48, blocks=4), 1),
    "residual-x4-64x16": Recipe(ResidualConfig(scale=4, channels=64, blocks=8), 2.5),
    "residual-x4-96x16": Recipe(ResidualConfig(scale=4, channels=96, blocks=8), 3),
    "smallest": Recipe(CompactConfig(scale=4, channels=4, blocks=1), 1, {"patch": 96, "batch": 4}),
}
"""Networks of the names' channels and convolutions. `smallest` is for trying the command."""

DEFAULT = [name for name in LADDER if name != "smallest"]


def config_of(recipe: Recipe, device: str) -> TrainConfig:
    base = TrainConfig(generator=recipe.generator, batch=16, patch=256, weight_decay=0.1, device=device)
    return replace(base, **recipe.changes)


@dataclass
class Session:
    """The options of the command, the time that is left, and the figures so far."""

    options: argparse.Namespace
    device: torch.device
    deadline: float
    figures: dict[str, Any]

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()

    def save(self) -> None:
        output: Path = self.options.output
        for name, content in (("figures.json", json.dumps(self.figures, indent=1)), ("figures.md", markdown(self.figures))):
            with atomic_write(output / name) as part:
                part.write_text(content + "\n")


def markdown(figures: dict[str, Any]) -> str:
    """A table for each stage."""
    lines = [f"{name}: {value}" for name, value in figures.items() if not isinstance(value, dict)]
    for stage, rows in figures.items():
        if isinstance(rows, dict):
            columns = list(dict.fromkeys(name for row in rows.values() for name in row))
            lines += ["", f"## {stage}", "", f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
            for name, row in rows.items():
                values = [row.get(column, "") for column in columns]
                cells = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
                lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def run_tests(session: Session, limit: float) -> dict[str, dict[str, Any]]:
    """Its output goes to tests.txt, whose last line says how many passed."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", str(ROOT / "tests")]
    log = session.options.output / "tests.txt"
    with log.open("w") as file:
        try:
            status = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, timeout=limit).returncode
        except subprocess.TimeoutExpired:
            return {"pytest -m gpu": {"result": f"stopped after {limit:.0f} s"}}
    lines = log.read_text().splitlines() or ["no output"]
    return {"pytest -m gpu": {"result": lines[-1], "exit status": status}}


def run_upscale(session: Session, limit: float) -> dict[str, dict[str, Any]]:
    end = time.monotonic() + limit
    lr = Image(read_srgb(PHOTO)[:180, :320])
    rows: dict[str, dict[str, Any]] = {}
    for name in session.options.models:
        pixels, times = [], []
        for device in ("cpu", str(session.device)):
            backend = load_model(name, device)
            upscale(backend, lr)
            began = time.perf_counter()
            pixels.append(upscale(backend, lr).pixels.astype(np.int16))
            times.append(time.perf_counter() - began)
        difference = int(np.abs(pixels[0] - pixels[1]).max())
        rows[name] = {"CPU ms": 1e3 * times[0], f"{session.device} ms": 1e3 * times[1], "largest difference": difference}
        if time.monotonic() > end:
            break
    return rows


def run_throughput(session: Session, limit: float) -> dict[str, dict[str, Any]]:
    recipes = {name: config_of(LADDER[name], str(session.device)) for name in session.options.ladder}
    rows: dict[str, dict[str, Any]] = {}
    for name, config in recipes.items():
        photos = PhotoDataset.read(session.options.photos, smallest=crop_size(config), cache=session.options.cache)
        rows[name] = loop_speed(config, photos, session.device, min(10.0, limit / (2 * len(recipes))))
    return rows


def run_train(session: Session, limit: float) -> dict[str, dict[str, Any]]:
    options = session.options
    end = time.monotonic() + limit
    rows: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(options.ladder):
        shares = [LADDER[each].share for each in options.ladder[number:]]
        time_left = (end - time.monotonic()) * shares[0] / sum(shares)
        seconds = time_left - min(RESERVE, time_left / 5)
        if seconds <= 0:
            rows[name] = {"result": "no time left"}
            continue
        folder = options.output / "runs" / name
        config = replace(
            config_of(LADDER[name], str(session.device)),
            photos=str(options.photos),
            output=str(folder),
            cache=options.cache,
            teacher=options.teacher,
            train_for=f"{seconds:.2f}s",
        )
        try:
            model = train(config, interrupted=lambda: time.monotonic() > end)
        except SrcliError as error:
            rows[name] = {"result": str(error)}
            continue
        shutil.copyfile(model, options.output / f"{name}.safetensors")
        rows[name] = {"seconds": seconds, "steps": describe_model(model).about["steps"]} | measured(model, session)
        session.figures["train"] = rows
        session.save()
    return rows


@torch.inference_mode()
def measured(model: Path, session: Session) -> dict[str, float]:
    """PSNR and SSIM on the test sets, after the best validation."""
    scores: dict[str, float] = {}
    if (best := model.with_name("best.safetensors")).exists():
        about = describe_model(best).about
        scores = {f"validation {name}": about[f"val_{name}"] for name in ("psnr", "ssim")}
    generator = load_generator(model).to(session.device).eval()
    for name in SETS if session.options.bench else ():
        if not (session.options.bench / name).is_dir():
            continue
        hrs = hr_images(session.options.bench, name, generator.scale).values()
        pairs = [(quantized(generator(bicubic(hr, generator.scale).to(session.device))).cpu(), hr) for hr in hrs]
        scores |= {f"{name} {metric}": value for metric, value in score(pairs, generator.scale, []).items()}
    return scores


RUNS: dict[str, tuple[Callable[[Session, float], dict[str, dict[str, Any]]], float]] = {
    "tests": (run_tests, TESTS_SHARE),
    "upscale": (run_upscale, THROUGHPUT_SHARE),
    "throughput": (run_throughput, THROUGHPUT_SHARE),
    "train": (run_train, 1.0),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--bench", type=Path)
    parser.add_argument("--teacher")
    parser.add_argument("--ladder", nargs="+", choices=LADDER, default=DEFAULT)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--cache", default="auto")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    device = pick_device(options.device)
    options.output.mkdir(parents=True, exist_ok=True)
    if any(options.output.iterdir()):
        parser.error(f"{options.output} is not empty; choose another folder")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    session = Session(options, device, deadline, {"device": name, "torch": torch.__version__, "minutes": options.minutes})
    failed = False
    for stage in (stage for stage in STAGES if stage in options.only):
        run, share = RUNS[stage]
        limit = min(session.left, share * 60 * options.minutes)
        try:
            session.figures[stage] = run(session, limit) if limit > 0 else {"": {"result": "no time left"}}
        except Exception as error:  # a stage that fails does not stop the others, as the GPU is there only now
            session.figures[stage] = {"": {"result": f"{type(error).__name__}: {error}"}}
            failed = True
            print(f"{stage}: {type(error).__name__}: {error}", file=sys.stderr)
        session.save()
        print(f"{stage} done, {session.left:.0f} s left", file=sys.stderr)
    print(markdown(session.figures))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
