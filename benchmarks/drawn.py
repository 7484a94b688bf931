"""Drawn pages: text, tables, windows of programs, plots, line art and flat colors, to train on and to measure with.

    python benchmarks/drawn.py OUT [--count 200] [--seed 0] [--side 768]

Each page is drawn with the free fonts that matplotlib carries: DejaVu, STIX and Computer Modern. The pages of a seed are the
same with the same versions of Pillow and matplotlib. quality.py measures on `test_pages`, whose seed is not for training.
"""

from __future__ import annotations

import argparse
import colorsys
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from math import cos, pi, sin
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

TEST_SEED = 2**31
"""Seed of the pages that models are measured on."""

FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic"),
    *(
        "DejaVuSansMono",
        "DejaVuSansMono-Bold",
        "STIXGeneral",
        "STIXGeneralItalic",
        "STIXGeneralBol",
        "cmr10",
        "cmtt10",
        "cmss10",
    ),
)
SYLLABLES = (
    "ba be bo ca ce di do fa fe ga gi ha he ju ka ko la le li lo ma me mi na ne no pa pe ra re ri ro sa se so ta te ti va wi"
)
Color = tuple[int, int, int]
Random = np.random.Generator


def drawn_page(seed: int, number: int, side: int = 768) -> Image.Image:
    """A square page. Its kind, sizes, colors and texts depend on `seed` and `number`."""
    random = np.random.default_rng([seed, number])
    # half of the pages have smooth edges: they are drawn at three times the size
    zoom = int(random.choice((1, 3)))
    canvas = Canvas(random, side, zoom)
    canvas.draw.rectangle((0, 0, side * zoom, side * zoom), canvas.paper)
    KINDS[number % len(KINDS)](canvas)
    return canvas.image.reduce(zoom) if zoom > 1 else canvas.image


def test_pages() -> dict[str, np.ndarray]:
    """Two pages of each kind by name, H x W x 3, uint8."""
    pages = {f"page{number:02}": drawn_page(TEST_SEED, number, 480) for number in range(2 * len(KINDS))}
    return {name: np.array(page) for name, page in pages.items()}


class Canvas:
    """A page while it is drawn, in pixels of the final page. paper, ink: its main colors."""

    def __init__(self, random: Random, side: int, zoom: int) -> None:
        self.random, self.side, self.zoom = random, side, zoom
        self.image = Image.new("RGB", (side * zoom, side * zoom))
        self.draw = ImageDraw.Draw(self.image)
        light, dark = self.gray(225, 256), self.gray(0, 70)
        if random.random() < 0.4:
            light, dark = self.tint(light), self.tint(dark)
        self.paper, self.ink = (light, dark) if random.random() < 0.7 else (dark, light)

    def between(self, low: float, high: float) -> int:
        return int(self.random.integers(low, max(high, low + 1)))

    def gray(self, low: int, high: int) -> Color:
        level = self.between(low, high)
        return (level, level, level)

    def tint(self, color: Color) -> Color:
        return tuple(int(np.clip(level + self.between(-25, 26), 0, 255)) for level in color)  # type: ignore[return-value]

    def color(self) -> Color:
        """Any color, often a saturated one."""
        hue, saturation, value = self.random.uniform(size=3)
        return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation**0.5, 0.3 + 0.7 * value))  # type: ignore[return-value]

    def scaled(self, points: np.ndarray) -> list[tuple[float, float]]:
        return [(float(x), float(y)) for x, y in np.asarray(points, float).reshape(-1, 2) * self.zoom]

    def box(
        self, left: float, top: float, right: float, bottom: float, fill: Color | None, *, radius: int = 0, line: int = 0
    ) -> None:
        """A rectangle with an outline of `line` pixels in ink."""
        corners = [part * self.zoom for part in (left, top, right, bottom)]
        corners[2:] = [part - 1 for part in corners[2:]]
        self.draw.rounded_rectangle(corners, radius * self.zoom, fill, self.ink if line else None, line * self.zoom)

    def line(self, points: np.ndarray, color: Color, width: int) -> None:
        self.draw.line(self.scaled(points), color, width * self.zoom, joint="curve")

    def text(self, left: float, top: float, text: str, size: int, font: str, color: Color) -> float:
        """Draw the text. Returns its width."""
        face = _font(font, size * self.zoom)
        self.draw.text((left * self.zoom, top * self.zoom), text, color, face)
        return face.getlength(text) / self.zoom

    def font(self) -> str:
        return str(self.random.choice(FONTS))

    def word(self) -> str:
        """A pronounceable word, sometimes with a capital, or a number."""
        kind = self.random.random()
        if kind < 0.15:
            return f"{self.random.uniform(0, 10 ** self.between(0, 6)):,.{self.between(0, 3)}f}"
        word = "".join(self.random.choice(SYLLABLES.split(), size=self.between(1, 5))) + str(self.random.choice(list("nrstl ")))
        word = word.strip()
        return (
            word.upper()
            if kind < 0.2
            else word.capitalize()
            if kind < 0.35
            else word + str(self.random.choice(list(".,:;!?"))) * (kind > 0.9)
        )


@lru_cache(maxsize=256)
def _font(name: str, size: int) -> FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", size)


def text_page(page: Canvas) -> None:
    """Lines of text from tall to small, in one to three columns."""
    columns, size = page.between(1, 4), page.between(14, 60)
    for column in range(columns):
        left, top = page.side * column / columns + 12, page.between(4, 30)
        while top < page.side:
            if page.random.random() < 0.2:
                size = page.between(12, 60)
            font, color = page.font(), page.ink if page.random.random() < 0.8 else page.color()
            for _ in range(page.between(1, 5)):
                x = float(left)
                while x < page.side * (column + 1) / columns - 3 * size:
                    x += page.text(x, top, page.word() + " ", size, font, color)
                top += round(size * 1.3)


def table_page(page: Canvas) -> None:
    """A table with rules, or with rows of two colors."""
    size, width = page.between(14, 34), page.between(1, 5)
    height, font, ruled = round(size * page.random.uniform(1.5, 2.2)), page.font(), page.random.random() < 0.7
    stripes = [page.paper, page.tint(page.paper)]
    edges, top = [10], 10
    while edges[-1] < page.side - 10:
        edges.append(min(edges[-1] + page.between(3, 9) * size, page.side - 10))
    while top < page.side - height:
        heading = top == 10
        page.box(edges[0], top, edges[-1], top + height, page.color() if heading else stripes[top // height % 2])
        for left, right in pairwise(edges):
            if ruled:
                page.box(left, top, right + width, top + height + width, None, line=width)
            word = page.word()[: max(1, int((right - left) / size))]
            page.text(left + 6, top + (height - size) / 2, word, size, font, page.ink)
        top += height


def window_page(page: Canvas) -> None:
    """Windows of a program: bars, buttons, fields and icons."""
    page.box(0, 0, page.side, page.side, page.tint(page.paper))
    for _ in range(page.between(2, 6)):
        left, top = page.between(0, page.side * 0.6), page.between(0, page.side * 0.6)
        right, bottom = left + page.between(180, 500), top + page.between(140, 400)
        size, font, radius, line = page.between(13, 24), page.font(), page.between(0, 16), page.between(0, 4)
        page.box(left, top, right, bottom, page.paper, radius=radius, line=line)
        page.box(left, top, right, top + 2 * size, page.color(), radius=radius)
        page.text(left + 10, top + size // 2, page.word(), size, font, page.paper)
        y = top + round(2.6 * size)
        while y < bottom - 2 * size:
            x = left + 10
            while x < right - 6 * size:
                wide = page.between(4, 10) * size
                kind = page.random.random()
                if kind < 0.4:
                    page.box(x, y, min(x + wide, right - 8), y + round(1.8 * size), page.color(), radius=page.between(0, 9))
                    page.text(x + 8, y + size * 0.3, page.word(), size, font, page.paper)
                elif kind < 0.7:
                    page.box(
                        x,
                        y,
                        min(x + wide, right - 8),
                        y + round(1.8 * size),
                        None,
                        radius=page.between(0, 5),
                        line=page.between(1, 3),
                    )
                else:
                    shape = np.array([x + size, y + 0.9 * size]) + 0.8 * size * _polygon(
                        page.between(3, 30), page.random.uniform(0, pi)
                    )
                    page.draw.polygon(page.scaled(shape), page.color())
                x += wide + 10
            y += round(2.4 * size)


def plot_page(page: Canvas) -> None:
    """Axes with a grid, ticks, curves, bars or points."""
    left, top, right, bottom = (
        page.between(*ends)
        for ends in ((50, 110), (20, 60), (page.side - 60, page.side - 10), (page.side - 110, page.side - 50))
    )
    size, font, faint = page.between(12, 22), page.font(), page.gray(120, 210)
    ticks = page.between(4, 12)
    for x, y in zip(np.linspace(left, right, ticks).round(), np.linspace(top, bottom, ticks).round(), strict=True):
        page.line(np.array([[x, top], [x, bottom]]), faint, 1)
        page.line(np.array([[left, y], [right, y]]), faint, 1)
        page.text(x - size, bottom + 6, f"{(x - left) / 37:.1f}", size, font, page.ink)
        page.text(left - 2.6 * size, y - size / 2, f"{(bottom - y) / 29:.1f}", size, font, page.ink)
    axis = np.linspace(0, 1, 200)
    for _ in range(page.between(1, 6)):
        color, kind = page.color(), page.random.random()
        terms = [(page.random.normal() / k, page.random.uniform(1, 6) * k, page.random.uniform(0, 6)) for k in (1, 2, 3)]
        height = 0.5 + 0.2 * sum(weight * np.sin(frequency * axis + phase) for weight, frequency, phase in terms)
        curve = np.stack([left + axis * (right - left), bottom - np.clip(height, 0, 1) * (bottom - top)], axis=1)
        if kind < 0.5:
            page.line(curve, color, page.between(1, 6))
        elif kind < 0.75:
            for x, y in curve[:: page.between(8, 20)]:
                page.box(x, y, x + page.between(4, 9), bottom, color)
        else:
            for place in curve[::4] + page.random.normal(0, 12, (50, 2)):
                page.draw.polygon(page.scaled(place + page.between(3, 7) * _polygon(page.between(3, 24), 0)), color)
    page.line(np.array([[left, top], [left, bottom], [right, bottom]]), page.ink, page.between(1, 4))


def art_page(page: Canvas) -> None:
    """Shapes of flat color with outlines, and strokes, as in drawings and comics."""
    for _ in range(page.between(10, 40)):
        place, reach = page.random.uniform(0, page.side, 2), page.random.uniform(20, page.side / 3)
        outline = page.between(0, 7)
        if page.random.random() < 0.5:
            corners = page.between(3, 9)
            around = (
                _polygon(60, page.random.uniform(0, pi)) * (1 + 0.35 * np.sin(corners * np.linspace(0, 2 * pi, 60)))[:, None]
            )
            shape = place + reach * around * page.random.uniform(0.4, 1, 2)
        else:
            shape = place + reach * _polygon(page.between(3, 8), page.random.uniform(0, pi)) * page.random.uniform(0.3, 1, 2)
        page.draw.polygon(page.scaled(shape), page.color())
        if outline:
            page.line(np.concatenate([shape, shape[:2]]), page.ink, outline)
    for _ in range(page.between(5, 30)):
        ends = page.random.uniform(0, page.side, (4, 2))
        t = np.linspace(0, 1, 60)[:, None]
        curve = (1 - t) ** 3 * ends[0] + 3 * t * (1 - t) ** 2 * ends[1] + 3 * t**2 * (1 - t) * ends[2] + t**3 * ends[3]
        page.line(curve, page.ink if page.random.random() < 0.7 else page.color(), page.between(1, 8))
    for _ in range(page.between(0, 3)):  # hatching
        start, step, angle = page.random.uniform(0, page.side * 0.7, 2), page.between(4, 14), page.random.uniform(0, pi)
        for number in range(page.between(8, 30)):
            along, across = np.array([cos(angle), sin(angle)]), np.array([-sin(angle), cos(angle)])
            foot = start + number * step * across
            page.line(np.array([foot, foot + 160 * along]), page.ink, page.between(1, 3))


def _polygon(corners: int, angle: float) -> np.ndarray:
    """The corners of a regular polygon with radius 1."""
    angles = angle + np.linspace(0, 2 * pi, corners, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


KINDS: tuple[Callable[[Canvas], None], ...] = (text_page, table_page, window_page, plot_page, art_page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=768)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for number in range(options.count):
        drawn_page(options.seed, number, options.side).save(options.out / f"page{number:04}.png")


if __name__ == "__main__":
    main()
