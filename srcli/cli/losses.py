"""`srcli losses`: the terms of a loss and the layers of VGG16."""

from __future__ import annotations

from srcli.config import LAYER_PRESETS, VGG_LAYERS
from srcli.core.vgg_layers import LAYERS

_TERMS = """Terms of --loss, as in pixel=1,feature=0.1:
  pixel        mean squared error of RGB in 0..1
  l1           mean absolute error
  charbonnier  mean absolute error, smooth at zero
  feature      mean distance of VGG16 features at --layers, in units of each layer; --distance is squared or absolute
  texture      mean squared difference of local feature strength, in windows of 32 pixels (training only)
  tv           mean absolute difference of neighboring pixels of the result
  grid         mean squared local error of each position in a scale x scale square (training only)
  frequency    mean absolute difference of the Fourier transforms (training only)
  consistency  mean absolute difference after downscaling by the scale (training only)
  peak         spectral peaks at multiples of 1/scale cycles per pixel, where a pixel shuffle leaves a weave (training only)
  adversarial  how a discriminator that is trained along rates the result (training only)

Presets of --layers:"""


def losses() -> None:
    """List the terms of a loss and the layers of VGG16.

    Prints the receptive field and the cost of each layer.
    """
    print(_TERMS)
    for name, layers in LAYER_PRESETS.items():
        print(f"  {name:<8} {'every layer below' if layers == VGG_LAYERS else ', '.join(layers)}")
    print("")
    print("Layers, from input to output. field: side of the receptive field in pixels. cost: thousand multiply-adds per pixel")
    print("of the image, including all layers before:")
    print(f"  {'layer':<8} {'index':>5} {'channels':>8} {'stride':>6} {'field':>5} {'cost':>6}")
    for name in VGG_LAYERS:
        layer = LAYERS[name]
        print(
            f"  {name:<8} {layer.index:>5} {layer.channels:>8} {layer.stride:>6} {layer.receptive_field:>5} "
            f"{layer.cost / 1e3:>6.1f}"
        )
