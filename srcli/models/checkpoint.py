"""Model files, which hold a generator and the config that rebuilds it; and the weights of VGG16."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from srcli.config import GeneratorConfig, to_mapping
from srcli.core.networks import Generator, build_generator
from srcli.core.vgg import OXFORD_INPUT, TORCHVISION_INPUT, VGGWeights
from srcli.errors import SrcliError
from srcli.io.atomic import atomic_write
from srcli.models.quantization import calibrate
from srcli.models.registry import CHECKPOINT_VERSION, WEIGHTS, ModelSpec, describe_model, read_weights
from srcli.version import __version__

MAX_COMPRESSION = 8
"""How much smaller than its content a file of torch.save may be. Other programs may compress it; weights hardly shrink."""


def save_model(
    path: Path,
    generator: Generator,
    config: GeneratorConfig,
    about: Mapping[str, Any],
    lr: Tensor | None = None,
) -> None:
    """Write the fused generator with its config.

    about: plain values on how it was trained. lr: N x 3 x H x W, for int8 calibration; without it the file has no int8 data.
    """
    description = {"format": CHECKPOINT_VERSION, "srcli": __version__, "generator": to_mapping(config), "about": dict(about)}
    weights = generator.fused().state_dict() | (calibrate(generator, lr) if lr is not None else {})
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with atomic_write(path) as part:
        # not save_file: it makes a temporary file of its own, which a killed process would leave behind
        part.write_bytes(save(tensors, metadata={"srcli": json.dumps(description)}))


def load_generator(model: str | Path | ModelSpec) -> Generator:
    """The fused and frozen generator of a shipped model or a model file. Runs no code from the file.

    Raises SrcliError if there is no such model, if the file is damaged, or if the name has a suffix such as `:int8`, which says
    how to run a model.
    """
    spec = model if isinstance(model, ModelSpec) else describe_model(model)
    if spec.int8 or spec.ensemble:
        network = replace(spec, int8=False, ensemble=False).name
        raise SrcliError(f"{spec.name} names a way to run {network}. Give {network} itself.")
    weights = {name: torch.from_numpy(weight) for name, weight in read_weights(spec).items()}
    with torch.device("meta"):  # takes no memory, however large the network that a damaged file describes
        expected = build_generator(spec.config).fused().state_dict()
    if {name: tensor.shape for name, tensor in expected.items()} != {name: tensor.shape for name, tensor in weights.items()}:
        raise SrcliError(f"{spec.path} is damaged: its weights do not fit its own settings. Get it again.")
    generator = build_generator(spec.config).fused()
    generator.load_state_dict(weights)
    return generator.eval().requires_grad_(False)


def load_vgg_weights(source: str = "oxford") -> VGGWeights:
    """The weights of VGG16.

    source: `oxford`, which are in the package; `imagenet1k-v1`, which torchvision downloads; or a .safetensors or .pth file
    with torchvision's key names. A file is assumed to need torchvision's input normalization unless its weights are Oxford's.
    Raises SrcliError if they cannot be read or downloaded.
    """
    if source == "oxford":
        tensors, metadata = read_safetensors(WEIGHTS / "vgg16.safetensors")
        return VGGWeights(source, tensors, OXFORD_INPUT, json.loads(metadata["units"]))
    if source == "imagenet1k-v1":
        try:
            from torchvision.models import VGG16_Weights

            tensors = VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=True)
        except (ImportError, RuntimeError, OSError) as error:
            raise SrcliError(f"torchvision cannot provide its VGG16 ({error}). Leave out `vgg`, or set it to a file.") from None
        return VGGWeights(source, tensors, TORCHVISION_INPUT)
    path = Path(source)
    tensors = read_safetensors(path)[0] if path.suffix == ".safetensors" else read_torch(path)
    oxford = load_vgg_weights().tensors["features.0.bias"].float()
    first = tensors.get("features.0.bias")
    same = isinstance(first, Tensor) and first.shape == oxford.shape and torch.allclose(first.float(), oxford, atol=1e-3)
    return VGGWeights(str(path), tensors, OXFORD_INPUT if same else TORCHVISION_INPUT)


def read_torch(path: Path) -> dict[str, Any]:
    """A dict of tensors and plain values that `torch.save` wrote. Nothing else is unpickled.

    Raises SrcliError if the file is missing, damaged, or holds anything else.
    """
    try:
        with path.open("rb"):
            pass
        _check_unpacked_size(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise SrcliError(f"Cannot read {path}: {error.strerror}.") from None
    except SrcliError:
        raise
    except Exception as error:  # torch.load raises errors of many types for damaged files
        raise SrcliError(f"{path} is damaged or holds more than weights ({type(error).__name__}). Get it again.") from None
    if not isinstance(content, dict):
        raise SrcliError(f"{path} holds a {type(content).__name__} where weights by name were expected. Give another file.")
    return content


def _check_unpacked_size(path: Path) -> None:
    """Raise SrcliError if the file is a zip archive that unpacks to much more than its size, or has more names than a model."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > MAX_COMPRESSION * path.stat().st_size:  # torch.save does not compress
        raise SrcliError(
            f"{path} has {path.stat().st_size} bytes, but unpacks to {unpacked}, so it is probably not a real model. "
            "Use another one."
        )


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file by name, and its metadata. Raises SrcliError if it cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118, it is not a dict
    except (SafetensorError, OSError) as error:
        raise SrcliError(f"{path} cannot be read as safetensors ({error}). Check the path, or get the file again.") from None
