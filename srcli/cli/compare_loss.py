"""`srcli compare-loss`: a true picture and another in, figures out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from srcli.settings import parse_loss


def compare_loss(
    reference: Annotated[Path, typer.Argument(help="The true picture.", show_default=False)],
    candidate: Annotated[Path, typer.Argument(help="The picture to judge, of the same size.", show_default=False)],
    layers: Annotated[
        str,
        typer.Option("--layers", metavar="LAYERS", help="As in relu2_2=0.5,relu4_3; or first23, johnson, gatys."),
    ] = "first23",
    loss: Annotated[
        str, typer.Option("--loss", metavar="TERMS", help="Weights of the terms of the total, as srcli train takes them.")
    ] = "pixel=1,feature=1",
    vgg: Annotated[
        str,
        typer.Option(
            "--vgg", metavar="FILE", help="VGG16 weights: oxford (they ship), imagenet1k-v1, or a .pth or .safetensors."
        ),
    ] = "oxford",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document at full precision.")] = False,
) -> None:
    """Say how far a picture is from the true one under the losses that srcli trains on."""
    settings = parse_loss(loss, layers)

    from srcli.comparison import compare
    from srcli.report.comparison import as_json, as_table

    comparison = compare(reference, candidate, loss=settings, vgg=vgg)
    typer.echo(as_json(comparison) if json else as_table(comparison))
