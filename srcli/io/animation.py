"""Frames of animations and pages of files, as one tall image of one frame below the other, as libvips has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from PIL import Image as PillowImage

from srcli.io.avif import set_loop
from srcli.io.image import RowReader

DEFAULT_DELAY = 100
"""Milliseconds, of pages that become an animation."""


@dataclass(frozen=True)
class Animation:
    """frames: how many. delays: in milliseconds, one per frame; empty for pages. loop: how often it plays; 0 is forever."""

    frames: int
    delays: tuple[int, ...] = ()
    loop: int = 0

    @property
    def kind(self) -> str:
        return "animation" if self.delays else "pages"


class FrameRows:
    """The rows of the next frame of a tall image. Frames are read one after another."""

    def __init__(self, tall: RowReader, height: int) -> None:
        self.width, self.height, self.channels, self.dtype = tall.width, height, tall.channels, tall.dtype
        self._tall, self._remaining = tall, height

    def read(self, count: int) -> np.ndarray:
        count = min(count, self._remaining)
        self._remaining -= count
        return self._tall.read(count)


class TallRows:
    """The rows of frames one below the other. make_frame: the rows of the next frame, called when the one before is read."""

    def __init__(self, make_frame: Callable[[], RowReader], frames: int) -> None:
        self._make_frame, self._frames = make_frame, frames - 1
        self._frame = make_frame()
        self.width, self.channels, self.dtype = self._frame.width, self._frame.channels, self._frame.dtype
        self.height = self._frame.height * frames
        self._left = self._frame.height

    def read(self, count: int) -> np.ndarray:
        if not self._left and self._frames:
            self._frame, self._frames = self._make_frame(), self._frames - 1
            self._left = self._frame.height
        rows = self._frame.read(min(count, self._left))
        self._left -= len(rows)
        if len(rows) < count and self._frames and len(rows):
            return np.concatenate([rows, self.read(count - len(rows))])
        return rows


def frames_of(image: pyvips.Image, height: int) -> Iterator[np.ndarray]:
    """The frames of a tall image, H x W x C, computed one after another."""
    region = pyvips.Region.new(image)
    dtype = np.uint16 if image.format == "ushort" else np.uint8
    for top in range(0, image.height, height):
        yield np.frombuffer(region.fetch(0, top, image.width, height), dtype).reshape(height, image.width, image.bands)


def changed_area(before: np.ndarray | None, pixels: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the pixels that differ from those of the frame before. Left and top are even."""
    height, width = pixels.shape[:2]
    if before is None:
        return 0, 0, width, height
    differs = (before != pixels).any(axis=2)
    rows, columns = (np.flatnonzero(differs.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return 0, 0, 1, 1
    return int(columns[0]) & ~1, int(rows[0]) & ~1, int(columns[-1]) + 1, int(rows[-1]) + 1


def fields_of_animation(animation: Animation, height: int) -> list[tuple[int, str, Any]]:
    """The type, name and value of libvips' fields of pages or of an animated GIF."""
    number, numbers = pyvips.GValue.gint_type, pyvips.GValue.array_int_type
    pages: list[tuple[int, str, Any]] = [(number, "page-height", height), (number, "n-pages", animation.frames)]
    if not animation.delays:
        return pages
    ends = np.rint(np.cumsum(animation.delays) / 10) * 10  # GIF counts in 10 ms; this way, the total stays the same
    delays = np.maximum(np.diff(ends, prepend=0), np.minimum(animation.delays, 10)).astype(int).tolist()
    return [*pages, (numbers, "delay", delays), (number, "loop", animation.loop)]


def animation_of(image: pyvips.Image, frames: int) -> Animation:
    """From libvips' fields of a file with frames."""
    delays = tuple(image.get("delay")) if image.get_typeof("delay") else ()
    if len(delays) not in (0, frames):
        delays = (*delays, *[DEFAULT_DELAY] * frames)[:frames]
    return Animation(frames, delays, int(image.get("loop")) if image.get_typeof("loop") else 0)


def write_avif_sequence(
    path: Path, image: pyvips.Image, height: int, animation: Animation, exif: bytes, fields: dict[str, Any], quality: int
) -> None:
    """Write a tall 8-bit image as an AVIF sequence; libvips writes single images only."""
    options: dict[str, Any] = {"icc_profile": fields.get("icc-profile-data", b""), "xmp": fields.get("xmp-data")}
    if exif:
        options["exif"] = exif
    delays = list(animation.delays) or [DEFAULT_DELAY] * animation.frames
    sequence = _LazySequence(frames_of(image, height))
    sequence.save(path, "AVIF", save_all=True, duration=delays, quality=quality, subsampling="4:4:4", speed=8, **options)
    if animation.loop:
        set_loop(path, animation.loop)


class _LazySequence(PillowImage.Image):
    """Frames as Pillow's encoder iterates over them, of which one is in memory at a time."""

    is_animated = True

    def __init__(self, frames: Iterator[np.ndarray]) -> None:
        super().__init__()
        self._rest, self._place = frames, -1
        self.seek(0)

    def seek(self, frame: int) -> None:
        if frame <= self._place:
            return
        pixels = next(self._rest, None)
        if pixels is None:
            raise EOFError
        taken = PillowImage.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        if taken.mode == "LA":
            taken = taken.convert("RGBA")
        self.im, self._mode, self._size = taken.im, taken.mode, taken.size
        self._place = frame

    def tell(self) -> int:
        return 0
