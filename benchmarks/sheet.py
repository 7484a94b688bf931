"""Draw a sheet of upscaled details: a face, fabric, fur, foliage, brick, lettering, a drawing and a night scene.

    python benchmarks/sheet.py OUT.jpg MODEL [MODEL ...] [--degraded]

The photographs are those in the package scikit-image that are in the public domain or CC0. Each is downscaled with the
antialiased bicubic kernel by the models' scale. --degraded adds noise of 3 levels and then JPEG at quality 75.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import skimage
from image_panels import Detail, sheet

SIDE = 96
"""Side of a detail in pixels of the photograph. Each pixel is drawn twice as large."""

SUBJECTS = {
    "face": ("astronaut.png", 176, 68),
    "fabric": ("astronaut.png", 60, 330),
    "fur": ("chelsea.png", 120, 90),
    "cup": ("coffee.png", 330, 120),
    "foliage": ("grass.png", 200, 200),
    "brick": ("brick.png", 200, 180),
    "lettering": ("text.png", 40, 20),
    "drawing": ("horse.png", 230, 20),
    "dusk": ("rocket.jpg", 280, 130),
    "night": ("hubble_deep_field.jpg", 500, 400),
}
"""File, and left and top position of the detail."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--degraded", action="store_true")
    options = parser.parse_args()
    folder = Path(skimage.__file__).parent / "data"
    details = [Detail(folder / name, left, top, SIDE) for name, left, top in SUBJECTS.values()]
    rows = [detail.panels(options.models, degraded=options.degraded) for detail in details]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows, 2 * SIDE).save(options.out, quality=92, subsampling=0)
    print(options.out)


if __name__ == "__main__":
    main()
