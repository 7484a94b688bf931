"""Which models there are and what their files say about themselves, read without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from srcli.config import GeneratorConfig, generator_from_mapping
from srcli.errors import ConfigError, SrcliError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

WEIGHTS = Path(__file__).parent / "weights"
FORMAT = 2
"""Version of the description inside a model file."""


PURPOSES = {
    "faithful": "true to the picture, invents nothing: for documents, science, restoration and further work",
    "natural": "sharper and less smooth, may invent detail: for pictures to look at",
    "photo": "takes away noise, JPEG blocks and slight blur: for small pictures from cameras and the web",
}
"""What each kind of model is for."""

INT8 = ":int8"
"""At the end of a model's name: in 8 bits. What its file knows of that is in tensors whose names begin with int8."""

ENSEMBLE = "+"
"""At the end of a model's name: the mean over eight positions of the picture."""

QUALITIES = {"fast": INT8, "balanced": "", "best": INT8 + ENSEMBLE}
"""What stands behind a model's name, by how much time one has: each takes about three times as long as the one before on the
same model."""

SCALES = (2, 3, 4)
"""For which a faithful model ships."""

FAITHFUL, PERCEPTUAL, PHOTO = "compact-x{}", "compact-x{}-perceptual", "compact-x{}-photo"
"""Names of the models of each kind. The natural one was trained on from the faithful one, so that weights between the two are
of use."""

LARGE = "-large"
"""At the end of such a name: the model of the same kind for those who have most time, where there is one."""


@dataclass(frozen=True)
class ModelSpec:
    """A model file: where it is, the settings that rebuild its generator, and what there is to know `about` it.

    towards, share: another file of the same sizes, and how far from this one to it the weights lie, in 0..1.
    int8: whether its inner activations and kernels are rounded to 8 bits where that is quicker.
    ensemble: whether what it makes of a picture in all eight positions is averaged.
    """

    path: Path
    config: GeneratorConfig
    about: dict[str, Any]
    blend_with: Path | None = None
    blend_weight: float = 0.0
    int8: bool = False
    ensemble: bool = False

    @property
    def name(self) -> str:
        name = f"{self.blend_with.stem}@{self.blend_weight:g}" if self.blend_with else self.path.stem
        return f"{name}{INT8 if self.int8 else ''}{ENSEMBLE if self.ensemble else ''}"

    @property
    def scale(self) -> int:
        return self.config.scale

    @property
    def kind(self) -> str:
        """`photo` where small pictures were spoilt in training; `faithful` where only pixels were compared; else `natural`."""
        if self.about["settings"].get("degradation") == "photo":
            return "photo"
        loss: dict[str, Any] = self.about["settings"]["loss"]
        pixels = ("pixel", "l1", "charbonnier", "frequency")
        others = [weight for term, weight in loss.items() if term not in pixels and isinstance(weight, int | float)]
        return "natural" if any(others) else "faithful"

    @property
    def parameters(self) -> int:
        """How many weights the folded generator has."""
        with safe_open(self.path, "numpy") as file:
            return sum(prod(file.get_slice(name).get_shape()) for name in file.keys() if not _of_int8(name))  # noqa: SIM118


def shipped_models() -> list[str]:
    """Names of the models in the package, such as compact-x4."""
    return sorted(path.stem for path in WEIGHTS.glob("*-x*.safetensors"))


SPEED = "speed"
"""Stands among the sets of pictures in the figures, for `t`: the time for 320x180 pixels on a CPU, in units of sixteen 3x3
convolutions, 64 to 64 channels, at that size in torch."""


def read_benchmarks() -> dict[str, dict[str, dict[str, float]]]:
    """What benchmarks/quality.py measured: by model, then by set of pictures (or SPEED), then by figure."""
    figures: dict[str, dict[str, dict[str, float]]] = json.loads((WEIGHTS / "figures.json").read_text(encoding="utf-8"))
    return figures


def is_third_party(model: str | Path) -> bool:
    """Whether it is a file of weights that other programs made."""
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
    """A model that ships, by name, or one from a file that `srcli train` wrote.

    With :int8 behind it, the same in 8 bits; with + at its end, the ensemble of it.
    Raises SrcliError: no such model or file, or a file that srcli train did not write.
    """
    if not Path(model).is_file():
        if str(model).endswith(ENSEMBLE):
            return replace(describe_model(str(model).removesuffix(ENSEMBLE)), ensemble=True)
        if str(model).endswith(INT8):
            return replace(describe_model(str(model).removesuffix(INT8)), int8=True)
    path = _find(model)
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise SrcliError(f"{path} is no model file ({error}). Give one that srcli train wrote.") from None
    try:
        description = json.loads(metadata["srcli"])
        if description["format"] > FORMAT:
            raise SrcliError(f"{path} was written by srcli {description['srcli']}, which is newer. Update srcli.")
        config = generator_from_mapping(description["generator"], str(path))
        return ModelSpec(path, config, dict(description["about"]))
    except (KeyError, TypeError, ValueError, ConfigError):
        raise SrcliError(f"{path} is a safetensors file that srcli train did not write. Give one that it wrote.") from None


def select_models(*, quality: str = "balanced", perceptual: float = 0.0, photo: bool = False) -> list[ModelSpec]:
    """The shipped models to enlarge with, one for each scale there is of their kind.

    quality: of QUALITIES, how much time one has. naturalness: 0..1, from the faithful model to the natural one, where the
    weights are interpolated (after Wang et al. 2019, "Deep Network Interpolation"). photo: for spoilt pictures.
    Raises ConfigError for what there is not.
    """
    if quality not in QUALITIES:
        raise ConfigError(f"There is no quality {quality!r}. {did_you_mean(quality, QUALITIES)}")
    if not 0 <= perceptual <= 1:
        raise ConfigError(f"The naturalness is {perceptual:g}; it must be at least 0 and at most 1.")
    if photo and perceptual:
        raise ConfigError("There is no more natural model for spoilt photographs. Leave out --photo or --naturalness.")
    between = 0 < perceptual < 1
    if between and quality == "fast":
        raise ConfigError("Fast there is only what is faithful or natural and nothing between. Use --naturalness 0 or 1.")
    kind = PHOTO if photo else PERCEPTUAL if perceptual == 1 else FAITHFUL
    shipped = shipped_models()
    names = [kind.format(scale) for scale in SCALES if not between or PERCEPTUAL.format(scale) in shipped]
    if quality == "best" and not between:  # weights can be interpolated between networks of one size alone
        names = [name + LARGE if name + LARGE in shipped else name for name in names]
    models = [describe_model(name + QUALITIES[quality]) for name in names if name in shipped]
    return [_blend_with_perceptual(model, perceptual) for model in models] if between else models


def _blend_with_perceptual(faithful: ModelSpec, perceptual: float) -> ModelSpec:
    """In full, as each has ranges for 8 bits of its own."""
    natural = describe_model(PERCEPTUAL.format(faithful.scale))
    return replace(faithful, int8=False, blend_with=natural.path, blend_weight=perceptual)


def read_weights(model: ModelSpec) -> dict[str, np.ndarray]:
    """The weights of the folded generator by name, float32, with what it takes to run them in 8 bits if that is wanted.

    Raises SrcliError where a file is damaged, or has nothing for 8 bits.
    """
    weights = _read_file(model.path)
    if not model.int8:
        weights = {name: weight for name, weight in weights.items() if not _of_int8(name)}
    elif not any(map(_of_int8, weights)):
        one = replace(model, int8=False).name
        raise SrcliError(f"{one} was not prepared for 8 bits, as every compact model is that is trained now. Leave out {INT8}.")
    if model.blend_with is None:
        return weights
    other = _read_file(model.blend_with)
    return {name: (1 - model.blend_weight) * weight + model.blend_weight * other[name] for name, weight in weights.items()}


def _read_file(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name).astype("float32") for name in file.keys()}  # noqa: SIM118, it is no dict
    except (SafetensorError, OSError, TypeError) as error:  # TypeError: numbers of a kind that numpy has not
        raise SrcliError(f"{path} is damaged ({error}). Get it again.") from None


def _of_int8(name: str) -> bool:
    return name.startswith("int8.")


def _find(model: str | Path) -> Path:
    if str(model) in shipped_models():
        return WEIGHTS / f"{model}.safetensors"
    path = Path(model)
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        raise ConfigError(
            f"There is no model file {path}. Check the path, or name a shipped model: {', '.join(shipped_models())}."
        )
    raise ConfigError(f"There is no model {str(model)!r}. {did_you_mean(str(model), shipped_models())} Or give a file.")
