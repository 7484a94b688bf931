"""Draw the panels of the documentation: a detail of a photograph as input, bicubic, by each model, and the original.

    python benchmarks/image_panels.py PHOTO LEFT TOP SIDE OUT.png MODEL [MODEL ...] [--zoom 3]

PHOTO is downscaled with the antialiased bicubic kernel by the models' scale, upscaled with `srcli upscale`, and read back from
disk. LEFT, TOP, SIDE: the detail, in pixels of PHOTO. Each pixel is drawn --zoom times as large, without smoothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont
from quality import degrade, quantized, read, truth
from torch import Tensor
from torch.nn.functional import interpolate

from srcli.core.degradation import bicubic
from srcli.io.image import Image
from srcli.io.write import write_image
from srcli.models.registry import describe_model

LABEL = 26
GAP = 4


@dataclass(frozen=True)
class Detail:
    """A square of `side` pixels in a photograph."""

    photo: Path
    left: int
    top: int
    side: int

    def panels(self, models: Sequence[str], *, degraded: bool = False) -> dict[str, PILImage.Image]:
        """The panels by label. degraded: add noise and JPEG artifacts to the LR image."""
        scale = describe_model(models[0]).scale
        hr = truth(self.photo, scale)
        lr = degrade(bicubic(hr, scale)) if degraded else bicubic(hr, scale)
        wholes = {
            "small": interpolate(lr, scale_factor=scale, mode="nearest"),
            "bicubic": quantized(interpolate(lr, size=hr.shape[-2:], mode="bicubic", antialias=True)),
        }
        with tempfile.TemporaryDirectory() as scratch:
            small, large = Path(scratch) / "small.png", Path(scratch) / "large.png"
            write_image(to_pixels(lr), small)
            for model in models:
                command = [sys.executable, "-m", "srcli", "upscale", small, "-m", model, "-o", large, "--overwrite"]
                subprocess.run(list(map(str, command)), check=True, capture_output=True)
                wholes[describe_model(model).name] = read(large)
        wholes["true"] = hr
        rows, columns = slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)
        return {label: PILImage.fromarray(to_pixels(whole[..., rows, columns]).pixels) for label, whole in wholes.items()}


def to_pixels(image: Tensor) -> Image:
    return Image((image[0] * 255).round().byte().permute(1, 2, 0).numpy())


def sheet(rows: Sequence[dict[str, PILImage.Image]], side: int) -> PILImage.Image:
    """The panels of each row next to each other, `side` pixels wide, under their labels."""
    labels = list(rows[0])
    step = side + GAP
    page = PILImage.new("RGB", (len(labels) * step - GAP, LABEL + len(rows) * step - GAP), "white")
    draw = ImageDraw.Draw(page)
    for column, label in enumerate(labels):
        place = (column * step + side / 2, LABEL / 2)
        draw.text(place, label, fill="black", anchor="mm", font=ImageFont.load_default(16))
        for row, panels in enumerate(rows):
            page.paste(panels[label].resize((side, side), PILImage.Resampling.NEAREST), (column * step, LABEL + row * step))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("left", type=int)
    parser.add_argument("top", type=int)
    parser.add_argument("side", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--zoom", type=int, default=3)
    options = parser.parse_args()
    detail = Detail(options.photo, options.left, options.top, options.side)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet([detail.panels(options.models)], options.side * options.zoom).save(options.out)
    print(options.out)


if __name__ == "__main__":
    main()
