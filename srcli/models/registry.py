"""The shipped models, and what model files say about themselves. Reads files without torch."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from srcli.config import CompactConfig, GeneratorConfig, generator_from_mapping
from srcli.core.graph import BODIES, shapes_of
from srcli.errors import ConfigError, SrcliError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

WEIGHTS = Path(__file__).parent / "weights"
CHECKPOINT_VERSION = 3
"""Version of the description in a model file. Version 2 kept the int8 data of all layers in two tensors."""

PURPOSES = {
    "faithful": "true to the input, adds no detail: for documents, science, restoration and further processing",
    "perceptual": "sharper, may add detail that is not in the input: for images to look at",
    "photo": "removes noise, JPEG artifacts and slight blur: for small images from cameras and the web",
}
"""What each kind of model is for."""

INT8 = ":int8"
"""Suffix of a model's name: run it in int8. The data for that is in tensors whose names begin with `int8.`."""

SELF_ENSEMBLE = "+"
"""Suffix of a model's name: average the outputs for all eight flips and rotations."""

BLEND = re.compile(r"-(perceptual|photo)@([^@]*?)(?=-(?:perceptual|photo)@|$)")
"""Part of a model's name with a share in 0..1, as in base-x4-perceptual@0.5 or base-x4-perceptual@0.5-photo@0.25: the weights
of base-x4, moved by this share towards base-x4-perceptual and towards base-x4-photo."""

EFFORTS = ("fast", "balanced", "best")
"""From the fastest to the most accurate. All of them run in int8; `best` uses a self-ensemble as well."""

SCALES = (2, 3, 4)
"""Scales of the shipped faithful models."""

TINY, BASE, LARGE = "tiny-x{}", "base-x{}", "large-x{}"
"""Names of the faithful models by size. Some scales have no large model."""

PERCEPTUAL, PHOTO = BASE + "-perceptual", BASE + "-photo"
"""Names of the other kinds. They were fine-tuned from the faithful one, so that weights in between can be interpolated."""

RUN_MODELS = ("best.safetensors", "model.safetensors")
"""What the folder of a training run stands for: the model with the lowest validation loss, else the last one."""

RENAMED = {
    "compact-x2": "base-x2",
    "compact-x2-photo": "base-x2-photo",
    "compact-x3": "base-x3",
    "compact-x4": "base-x4",
    "compact-x4-large": "large-x4",
    "compact-x4-perceptual": "base-x4-perceptual",
    "compact-x4-photo": "base-x4-photo",
    "compact-x4-tiny": "tiny-x4",
}
"""Names of earlier versions, which will be removed in the next version."""


@dataclass(frozen=True)
class ModelSpec:
    """A model file and how to run it.

    config: rebuilds the generator. about: what the file says about its training. blend: shipped models that were fine-tuned
    from this one, by kind, and the share in 0..1 of their difference from this one that is added to its weights. int8: whether
    to run in int8 where supported. ensemble: whether to average the outputs for all eight flips and rotations.
    """

    path: Path
    config: GeneratorConfig
    about: dict[str, Any]
    blend: tuple[tuple[str, float], ...] = ()
    int8: bool = False
    ensemble: bool = False

    @property
    def name(self) -> str:
        """The name that `describe_model` accepts."""
        blend = "".join(f"-{kind}@{weight:g}" for kind, weight in self.blend)
        return f"{self.path.stem}{blend}{INT8 if self.int8 else ''}{SELF_ENSEMBLE if self.ensemble else ''}"

    @property
    def blended(self) -> list[tuple[Path, float]]:
        """The files of `blend`, with their shares."""
        return [(self.path.with_stem(f"{self.path.stem}-{kind}"), weight) for kind, weight in self.blend]

    @property
    def scale(self) -> int:
        return self.config.scale

    @property
    def kind(self) -> str:
        """`photo` if it was trained on degraded images, `faithful` if on pixel losses alone, else `perceptual`."""
        settings: dict[str, Any] = self.about.get("settings", {})
        if settings.get("degradation") == "photo":
            return "photo"
        pixel_losses = ("pixel", "l1", "charbonnier", "frequency")
        loss: dict[str, Any] = settings.get("loss", {})
        others = [weight for term, weight in loss.items() if term not in pixel_losses and isinstance(weight, int | float)]
        return "perceptual" if any(others) else "faithful"

    @property
    def restores(self) -> bool:
        """Whether it improves an image at the same size, too: its result, downscaled, has less noise."""
        return self.kind == "photo" or any(kind == "photo" and weight for kind, weight in self.blend)

    @property
    def parameters(self) -> int:
        """The number of weights of the fused generator."""
        with safe_open(self.path, "numpy") as file:
            return sum(prod(file.get_slice(name).get_shape()) for name in file.keys() if not _is_int8(name))  # noqa: SIM118


def shipped_models() -> list[str]:
    """Names of the models in the package, such as base-x4."""
    return sorted(path.stem for path in WEIGHTS.glob("*-x*.safetensors"))


SPEED = "speed"
"""Key next to the test sets in the benchmark results, for `t`: the time for 320x180 pixels on a CPU, in units of sixteen 3x3
convolutions of 64 to 64 channels at that size in torch."""


def read_benchmarks() -> dict[str, dict[str, dict[str, float]]]:
    """The results of benchmarks/quality.py: by model, then by test set (or SPEED), then by metric."""
    results: dict[str, dict[str, dict[str, float]]] = json.loads((WEIGHTS / "figures.json").read_text(encoding="utf-8"))
    return results


def is_third_party(model: str | Path) -> bool:
    """Whether it is a file of weights that another program wrote."""
    path = Path(model)
    if str(model) in shipped_models() or not path.is_file():
        return False
    if path.suffix.lower() in (".pth", ".pt", ".ckpt"):
        return True
    try:
        with safe_open(path, "numpy") as file:
            return "srcli" not in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def describe_model(model: str | Path) -> ModelSpec:
    """A shipped model by name, or a file that `srcli train` wrote.

    Suffixes of the name: `@W` for weights between the faithful model (0) and this perceptual or photo model (1), `:int8` to run
    it in int8, `+` for the self-ensemble.
    Raises ConfigError if there is no such model, and SrcliError for a file that `srcli train` did not write.
    """
    model = current_name(model)
    name = str(model)
    if not Path(model).is_file():
        if name.endswith(SELF_ENSEMBLE):
            return replace(describe_model(name.removesuffix(SELF_ENSEMBLE)), ensemble=True)
        if name.endswith(INT8):
            return replace(describe_model(name.removesuffix(INT8)), int8=True)
        faithful = BLEND.sub("", name)
        if faithful != name and faithful in shipped_models():
            return _blended(describe_model(faithful), dict(BLEND.findall(name)))
    path = _find(model)
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise SrcliError(f"{path} is not a model file ({error}). Give a file that srcli train wrote.") from None
    try:
        description = json.loads(metadata["srcli"])
        if int(description["format"]) > CHECKPOINT_VERSION:
            raise SrcliError(f"{path} was written by a newer version of srcli, {description['srcli']}. Update srcli.")
        config = generator_from_mapping(description["generator"], str(path))
        return ModelSpec(path, config, dict(description["about"]))
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError, ConfigError):
        raise SrcliError(f"{path} is a safetensors file that srcli train did not write. Give a file that it wrote.") from None


def current_name(model: str | Path) -> str | Path:
    """The name of a shipped model, with its suffixes, if `model` is a name of an earlier version. Otherwise `model` itself."""
    name = str(model)
    old = name.split("@")[0].removesuffix(SELF_ENSEMBLE).removesuffix(INT8)
    return name.replace(old, RENAMED[old], 1) if old in RENAMED and not Path(name).exists() else model


def _blended(faithful: ModelSpec, weights: Mapping[str, str | float]) -> ModelSpec:
    """The faithful model moved towards those that were fine-tuned from it. Raises ConfigError if there is no such model."""
    blend: list[tuple[str, float]] = []
    for kind, weight in weights.items():
        name = f"{faithful.path.stem}-{kind}"
        try:
            value = float(weight)
        except ValueError:
            value = -1
        if not 0 <= value <= 1:
            raise ConfigError(f"The weight of {name} is {weight!r}; it must be a number from 0 to 1.")
        if describe_model(name).config != faithful.config:
            raise ConfigError(f"{name} is another network than {faithful.name}. Leave out the weight.")
        blend.append((kind, value))
    return replace(faithful, blend=tuple(blend))


def select_models(*, effort: str = "balanced", perceptual: float = 0.0, denoise: float = 0.0) -> list[ModelSpec]:
    """The shipped models to upscale with, one per scale.

    effort: a key of EFFORTS. perceptual: 0..1, from the faithful model to the perceptual one. denoise: 0..1, from there to the
    model for images with noise and JPEG artifacts. Values in between interpolate weights (after Wang et al. 2019, "Deep Network
    Interpolation"), and both together add up (Ilharco et al. 2023, "Editing Models with Task Arithmetic").
    Raises ConfigError for values out of range.
    """
    if effort not in EFFORTS:
        raise ConfigError(f"There is no effort {effort!r}. {did_you_mean(effort, EFFORTS)}")
    for name, value in {"perceptual": perceptual, "denoise": denoise}.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"`{name}` is {value:g}; it must be at least 0 and at most 1.")
    shipped = shipped_models()
    weights = {kind: weight for kind, weight in {"perceptual": perceptual, "photo": denoise}.items() if weight}
    models: list[ModelSpec] = []
    for scale in SCALES:
        base = BASE.format(scale)
        if not weights:
            faithful = {"fast": TINY, "balanced": BASE, "best": LARGE}[effort].format(scale)
            models.append(describe_model(faithful if faithful in shipped else base))
        elif all(f"{base}-{kind}" in shipped for kind in weights):
            whole = [kind for kind, weight in weights.items() if weight == 1]
            alone = len(weights) == len(whole) == 1
            models.append(describe_model(f"{base}-{whole[0]}") if alone else _blended(describe_model(base), weights))
    return [replace(model, int8=True, ensemble=effort == "best") for model in models]


def read_weights(model: ModelSpec) -> dict[str, np.ndarray]:
    """The weights of the fused generator by name, float32, with the `int8.*` tensors if the model is to run in int8.

    Raises SrcliError if a file is damaged, or has no data for int8.
    """
    if not model.blend:
        return _read_weights(model)
    first = _read_weights(replace(model, blend=()))
    weights = dict(first)
    for path, share in model.blended:
        other = _read_weights(replace(model, path=path, blend=()))
        for name, weight in first.items():  # activations change little by little as well, so this includes int8 data
            if name.endswith(".scale"):
                weights[name] = weights[name] * (other[name] / weight) ** share  # stays positive
            else:
                weights[name] = weights[name] + share * (other[name] - weight)
    return weights


def _read_weights(model: ModelSpec) -> dict[str, np.ndarray]:
    """Those of `model.path` alone."""
    weights = _read_file(model.path)
    _check(weights, model)
    if not model.int8:
        return {name: weight for name, weight in weights.items() if not _is_int8(name)}
    if not any(map(_is_int8, weights)):
        name = replace(model, int8=False).name
        raise SrcliError(f"{name} has no int8 calibration data. Train it again with this version, or leave out {INT8}.")
    return _from_version_2(weights, model.config) if "int8.channels" in weights else weights


def _check(weights: dict[str, np.ndarray], model: ModelSpec) -> None:
    """Raise SrcliError if the tensors are not those that the config of the file describes."""
    import numpy as np

    if type(model.config) in BODIES:
        convs = shapes_of(model.config).convs
        expected: dict[str, tuple[int, ...]] = {f"{name}.bias": (conv.outputs,) for name, conv in convs.items()}
        expected |= {f"{name}.weight": (conv.outputs, conv.inputs, conv.size, conv.size) for name, conv in convs.items()}
        if expected != {name: weight.shape for name, weight in weights.items() if not _is_int8(name)}:
            raise SrcliError(f"{model.path} is damaged: its weights do not fit its own settings. Get it again.")
    if not all(np.isfinite(weight).all() for name, weight in weights.items() if _is_int8(name)):
        raise SrcliError(f"{model.path} is damaged: its int8 calibration data are not finite. Train it again.")


def _from_version_2(weights: dict[str, np.ndarray], config: GeneratorConfig) -> dict[str, np.ndarray]:
    """A compact model's int8 data by convolution. Row i belonged to the input of the i-th convolution after the head."""
    assert isinstance(config, CompactConfig)
    channels, ranges = weights.pop("int8.channels"), weights.pop("int8.ranges")
    groups, convs = shapes_of(config).scale_groups, [name for name, conv in shapes_of(config).convs.items() if conv.quantize]
    scales = {f"int8.{group}.scale": scale for group, scale in zip(groups, channels, strict=False)}
    return weights | scales | {f"int8.{conv}.range": ends for conv, ends in zip(convs, ranges, strict=False)}


def _read_file(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name).astype("float32") for name in file.keys()}  # noqa: SIM118, it is not a dict
    except (SafetensorError, OSError, TypeError, AttributeError) as error:  # the last two: a number format unknown to numpy
        raise SrcliError(f"{path} is damaged ({error}). Get it again.") from None


def _is_int8(name: str) -> bool:
    return name.startswith("int8.")


def _find(model: str | Path) -> Path:
    if str(model) in shipped_models():
        return WEIGHTS / f"{model}.safetensors"
    path = Path(model)
    if path.is_file():
        return path
    for name in RUN_MODELS:
        if (path / name).is_file():
            return path / name
    if path.is_dir():
        raise ConfigError(f"{path} is a folder without a model. Give the folder of a training run, or a model file.")
    if path.suffix or len(path.parts) > 1:
        raise ConfigError(
            f"There is no model file {path}. Check the path, or name a shipped model: {', '.join(shipped_models())}."
        )
    raise ConfigError(f"There is no model {str(model)!r}. {did_you_mean(str(model), shipped_models())} Or give a file.")
