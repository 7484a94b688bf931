"""`srcli models`: the shipped models."""

from __future__ import annotations

import json
import textwrap
from typing import Annotated, Any

from srcli.cli.options import COMMON, Quiet, Verbose

WHICH = """Which one do I want?
  a good default                          srcli upscale photo.jpg
  the fastest result                      srcli upscale photo.jpg --effort fast
  the most accurate result                srcli upscale photo.jpg --effort best
  a sharper look, with invented detail    srcli upscale photo.jpg --perceptual 1
  noise and JPEG artifacts removed        srcli upscale photo.jpg --denoise 1
"""

WIDTH = 80

EXAMPLES = """
srcli models
srcli models --json
"""


def models(
    as_json: Annotated[bool, COMMON.flag("--json", help="Print one JSON document at full precision.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """List the shipped models, and which one to use for what.

    Prints what each model is for, its size, its speed, and its PSNR in dB.
    """
    from srcli.models.registry import PURPOSES, SPEED, describe_model, read_benchmarks, shipped_models

    benchmarks = read_benchmarks()
    names = dict.fromkeys([*shipped_models(), *(name for name in benchmarks if not name.startswith("bicubic"))])
    models = sorted(map(describe_model, names), key=lambda model: (model.scale, model.kind, model.name))
    rows: list[dict[str, Any]] = [
        {
            "name": model.name,
            "scale": model.scale,
            "kind": model.kind,
            "for": PURPOSES[model.kind],
            "megabytes": model.path.stat().st_size / 1e6,
            "parameters": model.parameters,
            "figures": benchmarks.get(model.name, {}),
        }
        for model in models
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print(WHICH)
    sets = list(dict.fromkeys(name for row in rows for name in row["figures"] if name != SPEED))
    name_width = max(len(row["name"]) for row in rows)
    kind_width = max(len(kind) for kind in PURPOSES)
    heading = f"{'model':<{name_width}}  scale {'kind':<{kind_width}}    MB    t"
    print(heading + "".join(f"{name:>7}" for name in sets))
    for row in rows:
        figures = row["figures"]
        t = f"{figures[SPEED]['t']:5.2f}" if SPEED in figures else f"{'-':>5}"
        psnr = [f"{figures[name]['psnr']:7.2f}" if name in figures else f"{'-':>7}" for name in sets]
        size = f"{row['megabytes']:>4.1f}"
        print(f"{row['name']:<{name_width}}  {row['scale']:>5} {row['kind']:<{kind_width}}  {size}{t}" + "".join(psnr))
    print("")
    legend = {kind: PURPOSES[kind] for kind in sorted({row["kind"] for row in rows})}
    legend["NAME:int8"] = "the same in int8: a third of the time, with differences of a few gray levels"
    legend["NAME+"] = "average over all eight flips and rotations: more accurate, eight times the time"
    legend["t"] = "relative time on a CPU: a model with twice the t takes twice the time"
    for word, meaning in legend.items():
        print(textwrap.fill(f"{word:<{kind_width}}  {meaning}", WIDTH, subsequent_indent=" " * (kind_width + 2)))
