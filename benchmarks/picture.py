"""Draw the README's pictures: one detail of a photograph, small, bicubic, by each model, and true.

    python benchmarks/picture.py PHOTO LEFT TOP SIDE OUT.png MODEL [MODEL ...] [--zoom 3]

PHOTO is the truth; it is reduced with the antialiased bicubic kernel by the models' scale, and what `srcli upscale` makes of
that is read back from disk. LEFT, TOP, SIDE: the detail, in pixels of PHOTO. Every pixel is drawn --zoom times as large,
without smoothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from quality import quantised, read, truth
from torch import Tensor
from torch.nn.functional import interpolate

from srcli.catalog import describe_model
from srcli.core.degradation import bicubic
from srcli.images import Picture, write_picture

LABEL = 26


def to_pixels(image: Tensor) -> Picture:
    return Picture((image[0] * 255).round().byte().permute(1, 2, 0).numpy())


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
    scale = describe_model(options.models[0]).scale
    hr = truth(options.photo, scale)
    lr = bicubic(hr, scale)
    panels = {
        "small": interpolate(lr, scale_factor=scale, mode="nearest"),
        "bicubic": quantised(interpolate(lr, size=hr.shape[-2:], mode="bicubic", antialias=True)),
    }
    with tempfile.TemporaryDirectory() as scratch:
        small = Path(scratch) / "small.png"
        write_picture(to_pixels(lr), small)
        for model in options.models:
            large = Path(scratch) / f"{describe_model(model).name}.png"
            subprocess.run([sys.executable, "-m", "srcli", "upscale", str(small), "-m", model, "-o", str(large)], check=True)
            panels[describe_model(model).name] = read(large)
    panels["true"] = hr
    side = options.side * options.zoom
    sheet = Image.new("RGB", (len(panels) * (side + 4) - 4, side + LABEL), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (label, image) in enumerate(panels.items()):
        detail = image[..., options.top : options.top + options.side, options.left : options.left + options.side]
        panel = Image.fromarray(to_pixels(detail).pixels).resize((side, side), Image.Resampling.NEAREST)
        left = number * (side + 4)
        sheet.paste(panel, (left, LABEL))
        draw.text((left + side / 2, LABEL / 2), label, fill="black", anchor="mm", font=ImageFont.load_default(16))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(options.out)
    print(options.out)


if __name__ == "__main__":
    main()
