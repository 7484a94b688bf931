"""`srcli losses`: what a loss can be made of."""

from __future__ import annotations

import typer

from srcli.config import LAYER_PRESETS, VGG_LAYERS
from srcli.core.vgg_layers import LAYERS


def losses() -> None:
    """List the terms of a loss and the layers of VGG16, with what each layer sees and costs."""
    typer.echo("Terms of --loss, as in pixel=1,feature=0.1:")
    typer.echo("  pixel        mean squared error of RGB in 0..1")
    typer.echo("  l1           mean absolute error")
    typer.echo("  charbonnier  mean absolute error, smooth at zero")
    typer.echo("  feature      mean distance of VGG16 features at the layers of --layers, in units of each layer, --distance")
    typer.echo("               squared or absolute")
    typer.echo("  texture      mean squared difference of the features' strength in windows of 32 pixels (training only)")
    typer.echo("  tv           mean absolute difference of neighboring pixels of the result")
    typer.echo("  grid         mean squared local error of each place in a scale x scale square (training only)")
    typer.echo("  frequency    mean absolute difference of the Fourier transforms (training only)")
    typer.echo("")
    typer.echo("Presets of --layers:")
    for name, layers in LAYER_PRESETS.items():
        typer.echo(f"  {name:<8} {'every layer below' if layers == VGG_LAYERS else ', '.join(layers)}")
    typer.echo("")
    typer.echo("Layers, in the order of the network; an activation sees a square of so many pixels, and computing the layer")
    typer.echo("takes so many thousand multiply-adds for each pixel of the image, with all layers before it:")
    typer.echo(f"  {'layer':<8} {'index':>5} {'channels':>8} {'stride':>6} {'sees':>5} {'cost':>6}")
    for name in VGG_LAYERS:
        layer = LAYERS[name]
        typer.echo(
            f"  {name:<8} {layer.index:>5} {layer.channels:>8} {layer.stride:>6} {layer.receptive_field:>5} "
            f"{layer.cost / 1e3:>6.1f}"
        )
