"""Model files: a generator and its settings in one safetensors file that rebuilds itself; and the weights of VGG16."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from srcli.config import Distance, GeneratorConfig, to_mapping
from srcli.core.losses import FeatureLoss
from srcli.core.networks import Generator, build_generator
from srcli.core.vgg import OXFORD_INPUT, TORCHVISION_INPUT, VGG16Features, VGGWeights
from srcli.errors import SrcliError
from srcli.io.atomic import atomic_write
from srcli.models.quantization import calibrate
from srcli.models.registry import CHECKPOINT_VERSION, WEIGHTS, ModelSpec, describe_model, read_weights
from srcli.version import __version__


def save_model(
    path: Path,
    generator: Generator,
    config: GeneratorConfig,
    about: Mapping[str, Any],
    lr: Tensor | None = None,
) -> None:
    """Write the generator in its folded form, with its settings and what there is to know `about` it.

    lr: small pictures, N x 3 x H x W, from which to learn how to run it in 8 bits; without them it cannot be.
    """
    description = {"format": CHECKPOINT_VERSION, "srcli": __version__, "generator": to_mapping(config), "about": dict(about)}
    known = generator.fused().state_dict() | (calibrate(generator, lr) if lr is not None else {})
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in known.items()}
    with atomic_write(path) as part:
        # not save_file: it makes a temporary file of its own, which a killed process leaves behind
        part.write_bytes(save(tensors, metadata={"srcli": json.dumps(description)}))


def load_generator(model: str | Path | ModelSpec) -> Generator:
    """The generator of a shipped model or a model file, folded, frozen and ready for use. Runs no code from the file.

    Raises SrcliError: no such model or file, no model file, weights that do not fit its own settings, or a way to run one.
    """
    description = model if isinstance(model, ModelSpec) else describe_model(model)
    if description.int8 or description.ensemble:
        network = replace(description, int8=False, ensemble=False).name
        raise SrcliError(f"{description.name} is a way to run {network}, and no network of its own. Give {network}.")
    generator = build_generator(description.config).fused()
    try:
        generator.load_state_dict({name: torch.from_numpy(weight) for name, weight in read_weights(description).items()})
    except RuntimeError:
        raise SrcliError(f"{description.path} is damaged: its weights do not fit its own settings. Get it again.") from None
    return generator.eval().requires_grad_(False)


def load_vgg_weights(source: str = "oxford") -> VGGWeights:
    """VGG16's weights: `oxford`, which ship; `imagenet1k-v1`, downloaded by torchvision; or a .safetensors or .pth file.

    A file has torchvision's key names and wants torchvision's normalisation, unless its weights are Oxford's.
    """
    if source == "oxford":
        tensors, metadata = read_safetensors(WEIGHTS / "vgg16.safetensors")
        return VGGWeights(source, tensors, OXFORD_INPUT, json.loads(metadata["units"]))
    if source == "imagenet1k-v1":
        try:
            from torchvision.models import VGG16_Weights

            tensors = VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=True)
        except (ImportError, RuntimeError, OSError) as error:
            raise SrcliError(f"torchvision cannot give its VGG16 ({error}). Leave out --vgg, or give a file.") from None
        return VGGWeights(source, tensors, TORCHVISION_INPUT)
    path = Path(source)
    tensors = read_safetensors(path)[0] if path.suffix == ".safetensors" else read_torch(path)
    oxford = load_vgg_weights().tensors["features.0.bias"].float()
    first = tensors.get("features.0.bias")
    same = isinstance(first, Tensor) and first.shape == oxford.shape and torch.allclose(first.float(), oxford, atol=1e-3)
    return VGGWeights(str(path), tensors, OXFORD_INPUT if same else TORCHVISION_INPUT)


def load_feature_loss(layers: Mapping[str, float], vgg: str = "oxford", distance: Distance = "squared") -> FeatureLoss:
    """The feature loss at `layers`, with the weights of VGG16 that `vgg` names (see `load_vgg_weights`)."""
    return FeatureLoss(VGG16Features(layers, load_vgg_weights(vgg)), layers, distance)


def read_torch(path: Path) -> dict[str, Any]:
    """What `torch.save` wrote, if it is a dict of tensors and plain values: nothing else is unpickled.

    Raises SrcliError: missing, damaged, or holding anything else.
    """
    try:
        with path.open("rb"):
            pass
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise SrcliError(f"Cannot read {path}: {error.strerror}.") from None
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        raise SrcliError(f"{path} is damaged or holds more than weights ({type(error).__name__}). Get it again.") from None
    if not isinstance(content, dict):
        raise SrcliError(f"{path} holds a {type(content).__name__} where weights by name were expected. Give another file.")
    return content


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file by name, and its metadata. Raises SrcliError where it cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118, it is no dict
    except (SafetensorError, OSError) as error:
        raise SrcliError(f"{path} cannot be read as safetensors ({error}). Check the path, or get the file again.") from None
