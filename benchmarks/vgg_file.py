"""Create srcli/models/weights/vgg16.safetensors: VGG16's convolutions, and the scale of each layer measured on photographs.

    python benchmarks/vgg_file.py WEIGHTS.safetensors PHOTOS

WEIGHTS: Oxford's VGG16 with torchvision's key names and its license in the metadata. The scale of a layer is the mean magnitude
of its activations over every eighth photograph, to three digits.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from srcli.config import VGG_LAYERS
from srcli.core.vgg import OXFORD_INPUT, VGG16Features, VGGWeights
from srcli.io.discover import find_images
from srcli.io.read import read_srgb
from srcli.models.checkpoint import WEIGHTS


@torch.inference_mode()
def main(source: Path, photos: Path) -> None:
    with safe_open(source, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is not a dict
        metadata = file.metadata()
    vgg = VGG16Features(VGG_LAYERS, VGGWeights("oxford", tensors, OXFORD_INPUT))
    sums = dict.fromkeys(VGG_LAYERS, 0.0)
    paths = find_images(photos)[::8]
    for path in paths:
        image = torch.from_numpy(read_srgb(path)).permute(2, 0, 1)[None].float() / 255
        for layer, features in vgg(image).items():
            sums[layer] += features.abs().mean().item() / len(paths)
    units = {layer: float(f"{total:.3g}") for layer, total in sums.items()}
    print(json.dumps(units, indent=1))
    metadata |= {
        "units": json.dumps(units),
        "units from": f"{len(paths)} photographs, mean magnitude of each layer's activations",
    }
    save_file(tensors, WEIGHTS / "vgg16.safetensors", metadata=metadata)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("photos", type=Path)
    options = parser.parse_args()
    main(options.weights, options.photos)
