"""Which models there are and what their files say about themselves, read without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from srcli.errors import SettingsError, SrcliError, nearest
from srcli.settings import GeneratorSettings, generator_from_mapping

if TYPE_CHECKING:
    import numpy as np

WEIGHTS = Path(__file__).parent / "weights"
FORMAT = 1
"""Version of the description inside a model file."""


PURPOSES = {
    "faithful": "true to the picture, invents nothing: for documents, science, restoration and further work",
    "natural": "sharper and less smooth, may invent detail: for pictures to look at",
    "photo": "takes away noise, JPEG blocks and slight blur: for small pictures from cameras and the web",
}
"""What each kind of model is for."""


@dataclass(frozen=True)
class Description:
    """A model file: where it is, the settings that rebuild its generator, and what there is to know `about` it."""

    path: Path
    settings: GeneratorSettings
    about: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def scale(self) -> int:
        return self.settings.scale

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
            return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118, it is no dict


def shipped_models() -> list[str]:
    """Names of the models in the package, such as compact-x4."""
    return sorted(path.stem for path in WEIGHTS.glob("*-x*.safetensors"))


def read_figures() -> dict[str, dict[str, dict[str, float]]]:
    """What benchmarks/quality.py measured: by model, then by set of pictures, then by figure."""
    figures: dict[str, dict[str, dict[str, float]]] = json.loads((WEIGHTS / "figures.json").read_text(encoding="utf-8"))
    return figures


def is_foreign(model: str | Path) -> bool:
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


def describe_model(model: str | Path) -> Description:
    """A model that ships, by name, or one from a file that `srcli train` wrote.

    Raises SrcliError: no such model or file, or a file that srcli train did not write.
    """
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
        settings = generator_from_mapping(description["generator"], str(path))
        return Description(path, settings, dict(description["about"]))
    except (KeyError, TypeError, ValueError, SettingsError):
        raise SrcliError(f"{path} is a safetensors file that srcli train did not write. Give one that it wrote.") from None


def read_weights(model: Description) -> dict[str, np.ndarray]:
    """The weights of the folded generator by name, float32. Raises SrcliError where the file is damaged."""
    try:
        with safe_open(model.path, "numpy") as file:
            return {name: file.get_tensor(name).astype("float32") for name in file.keys()}  # noqa: SIM118, it is no dict
    except (SafetensorError, OSError, TypeError) as error:  # TypeError: numbers of a kind that numpy has not
        raise SrcliError(f"{model.path} is damaged ({error}). Get it again.") from None


def _find(model: str | Path) -> Path:
    if str(model) in shipped_models():
        return WEIGHTS / f"{model}.safetensors"
    path = Path(model)
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        raise SettingsError(
            f"There is no model file {path}. Check the path, or name a shipped model: {', '.join(shipped_models())}."
        )
    raise SettingsError(f"There is no model {str(model)!r}. {nearest(str(model), shipped_models())} Or give a file.")
