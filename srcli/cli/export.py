"""`srcli export`: a model in, an ONNX file for other programs out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from srcli.errors import ConfigError, SrcliError


def export(
    model: Annotated[str, typer.Argument(help="A shipped model or a file that srcli train wrote.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="The ONNX file. [default: NAME.onnx here]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there already.")] = False,
) -> None:
    """Write a model as ONNX, checked against torch, for images of any height and width. Prints the file's name.

    Input lr and output sr: 1 x 3 x height x width, RGB in 0..1, float32.
    """
    from srcli.models.registry import describe_model

    described = describe_model(model)
    path = output or Path(f"{described.name}.onnx")
    if path.suffix.lower() != ".onnx":
        raise ConfigError(f"{path} does not end in .onnx; let it.")
    if path.exists() and not overwrite:
        raise SrcliError(f"{path} is there already. Use --overwrite to replace it, or choose another -o.")

    from srcli.models.checkpoint import load_generator
    from srcli.models.export import export_onnx

    export_onnx(load_generator(described), path, overwrite=overwrite)
    typer.echo(path)
