"""Validation images side by side: small, bicubic, the generator's, true."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from srcli.io.atomic import atomic_write
from srcli.training.validation import Sample

GAP = 6
HEAD = 22


def draw_sample_grid(samples: Sequence[Sample], path: Path, *, step: int) -> None:
    """One row for each sample, four images wide, pixel for pixel; the small ones by repeated pixels."""
    rows = [_row(sample) for sample in samples]
    width = max(row.shape[1] for row in rows)
    height = sum(row.shape[0] + GAP for row in rows)
    sheet = Image.new("RGB", (width, HEAD + height), "white")
    words = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    column = samples[0].hr.shape[1] + GAP
    for number, title in enumerate(("lr", "bicubic", f"sr, step {step}", "hr")):
        words.text((number * column + 2, 3), title, fill="black", font=font)
    top = HEAD
    for row in rows:
        sheet.paste(Image.fromarray(row), (0, top))
        top += row.shape[0] + GAP
    with atomic_write(path) as part:
        sheet.save(part)


def _row(sample: Sample) -> np.ndarray:
    scale = sample.hr.shape[0] // sample.lr.shape[0]
    images = (sample.lr.repeat(scale, axis=0).repeat(scale, axis=1), sample.bicubic, sample.sr, sample.hr)
    gap = np.full((sample.hr.shape[0], GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([part for image in images for part in (image, gap)][:-1], axis=1)
