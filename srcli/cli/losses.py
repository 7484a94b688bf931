"""`srcli losses`: the terms of a loss and the layers of VGG16."""

from __future__ import annotations

import json
from typing import Annotated

from srcli.cli.messages import as_options
from srcli.cli.options import COMMON, Quiet, Verbose
from srcli.config import LAYER_PRESETS, VGG_LAYERS
from srcli.core.vgg_layers import LAYERS
from srcli.training.settings import LOSS_MEANINGS

EXAMPLES = """
srcli losses
srcli losses --json
"""

TERMS = {term: as_options(meaning) for term, meaning in LOSS_MEANINGS.items()}


def losses(
    as_json: Annotated[bool, COMMON.flag("--json", help="Print one JSON document.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """List the terms of a loss and the layers of VGG16.

    Prints the receptive field and the cost of each layer.
    """
    if as_json:
        layers = [
            {
                "name": name,
                "index": LAYERS[name].index,
                "channels": LAYERS[name].channels,
                "stride": LAYERS[name].stride,
                "receptive_field": LAYERS[name].receptive_field,
                "cost": LAYERS[name].cost,
            }
            for name in VGG_LAYERS
        ]
        print(json.dumps({"terms": TERMS, "presets": LAYER_PRESETS, "layers": layers}, indent=1))
        return
    print("Terms of --loss, as in pixel=1,feature=0.1:")
    for name, meaning in TERMS.items():
        print(f"  {name:<12} {meaning}")
    print("\nPresets of --layers:")
    for name, preset in LAYER_PRESETS.items():
        print(f"  {name:<8} {'every layer below' if preset == VGG_LAYERS else ', '.join(preset)}")
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
