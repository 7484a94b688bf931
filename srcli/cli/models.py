"""`srcli models`: what ships, and what each is for."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document at full precision.")] = False,
) -> None:
    """List the models that ship, for srcli upscale -m NAME: what each is for, how large and slow it is, and its PSNR in dB."""
    from srcli.models.registry import PURPOSES, SPEED, describe_model, read_benchmarks, shipped_models

    measured = read_benchmarks()
    names = dict.fromkeys([*shipped_models(), *(name for name in measured if not name.startswith("bicubic"))])
    models = sorted(map(describe_model, names), key=lambda model: (model.scale, model.kind, model.name))
    rows: list[dict[str, Any]] = [
        {
            "name": model.name,
            "scale": model.scale,
            "kind": model.kind,
            "for": PURPOSES[model.kind],
            "megabytes": model.path.stat().st_size / 1e6,
            "parameters": model.parameters,
            "figures": measured.get(model.name, {}),
        }
        for model in models
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    sets = list(dict.fromkeys(name for row in rows for name in row["figures"] if name != SPEED))
    name_width = max(len(row["name"]) for row in rows)
    typer.echo(f"{'model':<{name_width}}  scale  {'kind':<8}    MB  parameters     t" + "".join(f"{name:>8}" for name in sets))
    for row in rows:
        figures = row["figures"]
        t = f"{figures[SPEED]['t']:6.2f}" if SPEED in figures else f"{'-':>6}"
        psnr = [f"{figures[name]['psnr']:8.2f}" if name in figures else f"{'-':>8}" for name in sets]
        size = f"{row['megabytes']:>4.1f}  {row['parameters']:>10}"
        typer.echo(f"{row['name']:<{name_width}}  {row['scale']:>5}  {row['kind']:<8}  {size}{t}" + "".join(psnr))
    typer.echo("")
    for kind in sorted({row["kind"] for row in rows}):
        typer.echo(f"{kind:<8}  {PURPOSES[kind]}")
    typer.echo("NAME+     any of them on the image in eight positions, averaged: nearer to the truth in eight times the time")
    typer.echo("NAME:int8 any of them in 8 bits: a third of the time, a few gray levels apart here and there")
    typer.echo("t         time on a CPU, in units of a fixed piece of work: twice the t is twice the time")
