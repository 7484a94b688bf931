"""`srcli export`: write a model as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from srcli.cli.options import COMMON, Quiet, Verbose, complete_models
from srcli.errors import ConfigError
from srcli.io.atomic import check_writable

EXAMPLES = """
srcli export base-x4
srcli export runs/first/model.safetensors -o first.onnx
"""


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A shipped model or a model file.", autocompletion=complete_models)
    ],
    output: Annotated[
        Path | None, COMMON.option("-o", "--output", metavar="FILE", help="The ONNX file. [default: NAME.onnx]")
    ] = None,
    overwrite: Annotated[bool, COMMON.flag("--overwrite", help="Replace an existing file.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write a model as ONNX and verify it against torch. Prints the path of the file.

    The input is called lr and the output sr: 1 x 3 x height x width, RGB in 0..1, float32, of any height and width.
    """
    from srcli.models.registry import describe_model

    spec = describe_model(model)
    path = output or Path(f"{spec.name}.onnx")
    if path.suffix.lower() != ".onnx":
        raise ConfigError(f"The name of the output must end in .onnx (got {path}).")
    check_writable(path, overwrite=overwrite)

    from srcli.models.checkpoint import load_generator
    from srcli.models.export import export_onnx

    export_onnx(load_generator(spec), path, overwrite=overwrite)
    print(path)
