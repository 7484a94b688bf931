"""Configuration as frozen dataclasses of plain values, and conversion to and from mappings.

A config is validated when it is created, so code that receives one does not check it again. The generator's config is stored
in the model file and rebuilds the generator. Nothing here imports torch, as the command line reads its defaults from here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

from srcli.errors import ConfigError, did_you_mean

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Distance = Literal["squared", "absolute"]
Degradation = Literal["bicubic", "johnson", "photo"]
Optimizer = Literal["muon", "adam", "adamw"]
Schedule = Literal["cosine", "multistep", "constant"]
Log = Literal["csv", "tensorboard"]
Unlabeled = Literal["none", "half"]

VGG_LAYERS = tuple(
    f"{kind}{block}_{number}"
    for block, depth in enumerate((2, 2, 3, 3, 3), start=1)
    for number in range(1, depth + 1)
    for kind in ("conv", "relu")
)[:-5]  # the shipped weights end with conv5_1
"""The layers of VGG16 that can be selected by name, from input to output: conv1_1 ... conv5_1."""

LAYER_PRESETS: dict[str, tuple[str, ...]] = {
    "first23": ("relu4_3",),
    "johnson": ("relu2_2",),
    "gatys": ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"),
    "all": VGG_LAYERS,
}
"""`first23`: the end of torchvision's `features[:23]`. `johnson`: Johnson et al. 2016, super-resolution.
`gatys`: Gatys et al. 2016, style; conv5_1 lies outside the first 23 layers."""


@dataclass(frozen=True, kw_only=True)
class CompactConfig:
    """Plain 3x3 convolutions at the input's resolution: `blocks` of them, `channels` wide, between a head and a tail."""

    architecture: Literal["compact"] = "compact"
    scale: int = 4
    channels: int = 48
    blocks: int = 8

    slope: ClassVar[float] = 0.1
    """Slope of the leaky ReLU below zero."""

    def __post_init__(self) -> None:
        _check_sizes(self, scales=(2, 3, 4))


@dataclass(frozen=True, kw_only=True)
class ResidualConfig:
    """Residual blocks of two 3x3 convolutions at the input's resolution: `blocks` of them, `channels` wide.

    slope: of the leaky ReLU below zero; 0 is ReLU.
    """

    architecture: Literal["residual"] = "residual"
    scale: int = 4
    channels: int = 64
    blocks: int = 8
    slope: float = 0.0

    def __post_init__(self) -> None:
        _check_sizes(self, scales=(2, 3, 4))
        _check_between(0, 1, "slope", self.slope)


@dataclass(frozen=True, kw_only=True)
class JohnsonConfig:
    """The network of Johnson et al. 2016: `blocks` residual blocks, `channels` wide."""

    architecture: Literal["johnson"] = "johnson"
    scale: int = 4
    channels: int = 64
    blocks: int = 4

    def __post_init__(self) -> None:
        _check_sizes(self, scales=(2, 3, 4, 8))


GeneratorConfig = CompactConfig | ResidualConfig | JohnsonConfig
GENERATORS: dict[str, type[GeneratorConfig]] = {"compact": CompactConfig, "residual": ResidualConfig, "johnson": JohnsonConfig}


MAX_SIZE = 1024
"""Channels and blocks of a generator, at most. A damaged model file may say anything."""


def _check_sizes(generator: GeneratorConfig, *, scales: tuple[int, ...]) -> None:
    if generator.scale not in scales:
        known = ", ".join(map(str, scales))
        raise ConfigError(f"{generator.architecture} does not support scale {generator.scale}; choose one of {known}.")
    for name in ("channels", "blocks"):
        _check_between(1, MAX_SIZE, name, getattr(generator, name))


def _check_between(least: float, most: float, name: str, value: float) -> None:
    if not least <= value <= most:
        raise ConfigError(f"{name} is {value}; it must be at least {least} and at most {most}.")


def _check_at_least(least: float, name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= least):
        raise ConfigError(f"{name} is {value}; it must be at least {least}.")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The weights of the loss terms. A term with weight 0 is not computed.

    layers: the VGG16 layers of the feature and the texture loss, with weights. distance: of the feature loss.
    """

    pixel: float = 1.0
    l1: float = 0.0
    charbonnier: float = 0.0
    feature: float = 0.0
    texture: float = 0.0
    tv: float = 0.0
    grid: float = 0.0
    frequency: float = 0.0
    consistency: float = 0.0
    peak: float = 0.0
    adversarial: float = 0.0
    layers: Mapping[str, float] = field(default_factory=lambda: {"relu4_3": 1.0})
    distance: Distance = "squared"

    def __post_init__(self) -> None:
        for name in LOSS_TERMS:
            _check_at_least(0, f"The weight of the {name} loss", getattr(self, name))
        if not any(getattr(self, name) for name in LOSS_TERMS if name != "adversarial"):
            raise ConfigError("All weights of the loss are 0; set one, as in pixel=1. An adversarial loss needs another term.")
        if not self.layers:
            raise ConfigError("The feature loss has no layers; give at least one, as in relu4_3.")
        if self.distance not in get_args(Distance):
            raise ConfigError(f"There is no distance {self.distance!r}; choose squared or absolute.")
        for layer, weight in self.layers.items():
            if layer not in VGG_LAYERS:
                raise ConfigError(f"VGG16 has no layer {layer}. {did_you_mean(layer, VGG_LAYERS)}")
            _check_at_least(0, f"The weight of layer {layer}", weight)

    @property
    def needs_vgg(self) -> bool:
        """Whether VGG16 is needed."""
        return bool(self.feature or self.texture)


LOSS_TERMS = tuple(part.name for part in fields(LossConfig) if part.type == "float")
"""The terms of a loss; `srcli.core.losses` defines them."""

GRID_WINDOW = 8  # side of the windows of the grid loss, in squares of scale x scale pixels
PEAK_PERIODS = 16  # of a pixel shuffle that the peak loss needs to see, at least
TEXTURE_WINDOW = 32  # side of the windows of the texture loss, in pixels

VGG_CROP_OFFSETS = 8
"""Training crops images at random offsets below this many pixels before VGG16: its stride after three poolings, at relu4_3."""


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})  # printed by `srcli train --help`


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A complete training run: the same config and photographs give the same model on the same machine.

    Each field is an option of `srcli train` and a key of its YAML file. Paths are relative to the current folder.
    """

    photos: str | None = _setting(None, "Folder of photographs, including subfolders; or tar shards, as in data/{00..99}.tar.")
    output: str | None = _setting(None, "Folder for the model, checkpoints and history.")
    lr_data: str | None = _setting(None, "Folder of LR images with the names of the photographs, instead of a degradation.")
    val: str | None = _setting(None, "Folder of photographs for validation, instead of held-out ones.")
    val_split: float = _setting(0.02, "Share of the photographs held out for validation; 0 disables validation.")
    strict: bool = _setting(False, "Treat a photograph that cannot be read or is too small as an error.")
    val_every: int = _setting(1000, "Steps between validations; there is one before step 1, and one after a minute.")
    cache: str = _setting("auto", "Folder for decoded photographs; auto (the user's cache), none (memory) or stream (chunks).")

    generator: GeneratorConfig = field(default_factory=CompactConfig)
    degradation: Degradation = _setting(
        "bicubic", "How LR images are computed: bicubic, johnson (with blur) or photo (with noise, blur and JPEG)."
    )
    loss: LossConfig = field(default_factory=LossConfig)
    vgg: str = _setting("oxford", "VGG16 weights: oxford, imagenet1k-v1, or a .pth or .safetensors file.")
    teacher: str | None = _setting(None, "Learn from this model as well: a shipped model or a file, of this scale or larger.")
    teacher_weight: float = _setting(0.5, "Share of the teacher in the target, from 0 to 1; the rest is the photograph.")
    teacher_skip: str | None = _setting(
        None, "Photographs that the teacher does not label: a pattern of paths, such as drawn/*."
    )
    unlabeled: Unlabeled = _setting("none", "half adds the photographs at half their size, which only the teacher labels.")
    init: str | None = _setting(None, "Start from the weights of a shipped model or a model file.")

    steps: int = _setting(10_000, "Number of training steps.")
    batch: int = _setting(16, "Crops per step and process.")
    accumulate: int = _setting(1, "Split each batch into this many parts, computed one after another, to save memory.")
    patch: int = _setting(192, "Side of an HR crop in pixels; a multiple of the scale.")
    optimizer: Optimizer = _setting("muon", "muon (with Adam for biases), adam or adamw.")
    weight_decay: float = _setting(0.0, "Weight decay; 0.1 prevents dead channels in long runs with Muon.")
    adversarial_lr: float = _setting(1e-4, "Peak learning rate of the discriminator of the adversarial loss.")
    lr: float = _setting(5e-3, "Peak learning rate; Adam needs a fifth of Muon's or less.")
    warmup: int = _setting(100, "Steps of linear warm-up to the peak learning rate.")
    schedule: Schedule = _setting(
        "cosine", "Learning rate schedule after warm-up: cosine (to 1 %), multistep (halving) or constant."
    )
    milestones: tuple[int, ...] = _setting((), "Steps at which multistep halves the learning rate, such as 5000,8000.")
    clip: float = _setting(1.0, "Maximum norm of the gradient.")
    ema: float = _setting(0.999, "Decay of the moving average of the weights, which is validated and saved; 0 turns it off.")
    precision: Precision = _setting("auto", "auto, fp32, bf16 or fp16; auto uses bf16 where it is faster.")
    device: str = _setting("auto", "auto, cpu, cuda, cuda:N or mps.")
    compile: bool = _setting(False, "Compile the generator with torch.compile; needs a C++ compiler.")
    seed: int = _setting(0, "Seed of initial weights, crops, degradation and validation split.")

    save_every: int = _setting(1000, "Steps between checkpoints.")
    mirror: str | None = _setting(
        None, "Copy the run's folder here with each checkpoint, to a folder or URL, to continue elsewhere."
    )
    keep: int = _setting(0, "Number of earlier checkpoints to keep.")
    patience: int = _setting(0, "Validations without improvement after which training stops; 0 turns it off.")
    train_for: str | None = _setting(None, "Train for this time, with a schedule that follows the clock, such as 10m or 1h30m.")
    max_time: str | None = _setting(None, "Time after which training saves and stops, such as 90m or 8h.")
    log: Log = _setting("csv", "csv, or tensorboard for CSV and TensorBoard.")

    def __post_init__(self) -> None:
        for name, least in MINIMUMS.items():
            _check_at_least(least, name, getattr(self, name))
        for name in ("lr", "clip"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0.")
        for name in ("ema", "val_split"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1.")
        _check_between(0, 1, "teacher_weight", self.teacher_weight)
        if self.unlabeled != "none" and (self.teacher is None or self.lr_data is not None):
            raise ConfigError("Without ground truth, only a teacher can label: `unlabeled` needs `teacher`, without `lr_data`.")
        if self.teacher_skip is not None and (self.teacher is None or self.unlabeled != "none"):
            raise ConfigError("What the teacher skips has no label: `teacher_skip` needs `teacher`, without `unlabeled`.")
        if self.batch % self.accumulate:
            raise ConfigError(f"A batch of {self.batch} crops has no {self.accumulate} equal parts; change `accumulate`.")
        if self.schedule == "multistep" and not self.milestones:
            raise ConfigError("The multistep schedule needs milestones, as in `milestones=5000,8000`.")
        if self.milestones and self.schedule != "multistep":
            raise ConfigError(f"Milestones need `schedule=multistep`, but the schedule is {self.schedule}.")
        if self.output is not None and "://" in self.output:
            raise ConfigError(f"`output` is a local folder; `mirror` copies it to {self.output}.")
        for limit in filter(None, (self.max_time, self.train_for)):
            seconds(limit)
        if self.train_for is not None and self.schedule == "multistep":
            raise ConfigError("`train_for` has no steps for `schedule=multistep`; use cosine or constant.")
        scale = self.generator.scale
        smallest = {"grid": (GRID_WINDOW + 4) * scale, "texture": TEXTURE_WINDOW + VGG_CROP_OFFSETS}
        smallest |= {"peak": PEAK_PERIODS * scale, "adversarial": 32}
        for term, least in smallest.items():
            if getattr(self.loss, term) and self.patch < least:
                raise ConfigError(f"A patch of {self.patch} pixels is too small for the {term} loss; use at least {least}.")
        if self.patch % scale:
            near = f"{self.patch // scale * scale} or {(self.patch // scale + 1) * scale}"
            raise ConfigError(f"A patch of {self.patch} pixels is not a multiple of the scale {scale}; use {near}.")

    def portable(self) -> TrainConfig:
        """The config without paths, for the model file."""
        return replace(self, photos=None, output=None, lr_data=None, val=None, cache="auto", mirror=None)


MINIMUMS = {
    **dict.fromkeys(("steps", "batch", "accumulate", "save_every", "val_every"), 1),
    **dict.fromkeys(("warmup", "weight_decay", "seed", "keep", "patience"), 0),
    "patch": 8,
}
"""The smallest value of each of these settings."""


def seconds(words: str) -> float:
    """`45s`, `90m`, `1h30m` or `2d` in seconds. Raises ConfigError for anything else."""
    if not re.fullmatch(r"(\d+(\.\d+)?[smhd])+", words):
        raise ConfigError(f"Invalid duration {words!r}; write numbers with units, as in 45s, 90m, 1h30m or 2d.")
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    return sum(float(number) * unit[kind] for number, kind in re.findall(r"([\d.]+)([smhd])", words))


def parse_loss(words: str, layers: str | None = None, distance: str | None = None) -> LossConfig:
    """A loss as on the command line: `pixel=1,feature=0.1`, `relu2_2=0.5,relu4_3` or the name of a preset, and `absolute`."""
    terms: dict[str, Any] = dict.fromkeys(LOSS_TERMS, 0.0) | _parse_weights(words, "loss", LOSS_TERMS, default=None)
    if layers is not None:
        terms["layers"] = parse_layers(layers)
    if distance is not None:
        terms["distance"] = distance
    return LossConfig(**terms)


def parse_layers(words: str) -> dict[str, float]:
    """Layers with optional weights, or the name of a preset."""
    if words in LAYER_PRESETS:
        return dict.fromkeys(LAYER_PRESETS[words], 1.0)
    return _parse_weights(words, "layer", (*VGG_LAYERS, *LAYER_PRESETS), default=1.0)


def _parse_weights(words: str, what: str, known: tuple[str, ...], default: float | None) -> dict[str, float]:
    weights: dict[str, float] = {}
    for word in words.split(","):
        name, equals, number = (part.strip() for part in word.partition("="))
        if name not in known:
            raise ConfigError(f"There is no {what} {name!r}. {did_you_mean(name, known)}")
        if name in weights:
            raise ConfigError(f"The {what} {name} appears twice in {words!r}; give it once.")
        if not equals and default is None:
            raise ConfigError(f"The {what} {name} has no weight in {words!r}; write {name}=1.")
        try:
            weights[name] = float(number) if equals else float(default or 0)
        except ValueError:
            raise ConfigError(f"The weight of {name} is {number!r}, not a number; write {name}=1.") from None
    return weights


ConfigT = TypeVar("ConfigT")


def to_mapping(config: Any) -> dict[str, Any]:
    """A config as dicts, numbers and strings, for YAML and model files."""
    plain = asdict(config)
    for name, value in plain.items():
        if isinstance(value, Mapping):
            plain[name] = dict(value)
        elif isinstance(value, tuple):
            plain[name] = list(value)
    return plain


def from_mapping(cls: type[ConfigT], mapping: Any, where: str) -> ConfigT:
    """The inverse of `to_mapping`. Raises ConfigError for unknown keys and invalid values, with `where` they are."""
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{where} should be a mapping, but is {mapping!r}.")
    hints = get_type_hints(cls)
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in mapping.items():
        if name not in known:
            raise ConfigError(f"{where} has an unknown key {name!r}. {did_you_mean(str(name), known)}")
        if name == "generator":
            values[name] = generator_from_mapping(value, f"{where}, generator")
        elif name == "loss":
            if isinstance(value, Mapping) and any(term in LOSS_TERMS for term in value):
                value = dict.fromkeys(LOSS_TERMS, 0.0) | dict(value)  # named terms replace the default
            values[name] = from_mapping(LossConfig, value, f"{where}, loss")
        elif name == "layers":
            values[name] = _layers_from(value, f"{where}, layers")
        else:
            values[name] = _plain(value, hints[name], f"{where}, {name}")
    return cls(**values)


def generator_from_mapping(mapping: Any, where: str) -> GeneratorConfig:
    """The config of a generator, of the class for its `architecture`."""
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{where} should be a mapping, but is {mapping!r}.")
    name = mapping.get("architecture", "compact")
    if name not in GENERATORS:
        raise ConfigError(f"{where}: there is no generator {name!r}. {did_you_mean(str(name), GENERATORS)}")
    return from_mapping(GENERATORS[name], mapping, where)


def _layers_from(value: Any, where: str) -> dict[str, float]:
    if isinstance(value, str):
        return parse_layers(value)
    if isinstance(value, Mapping) and value:
        return {str(layer): _plain(weight, float, f"{where}, {layer}") for layer, weight in value.items()}
    raise ConfigError(f"{where} is {value!r}; it should be layers with weights, as in {{relu4_3: 1}}.")


def _plain(value: Any, kind: Any, where: str) -> Any:
    """`value`, if it has the type `kind`: a number, bool, string, Literal, tuple of numbers, or optional. An int is a float."""
    choices = get_args(kind)
    if type(None) in choices:
        return None if value is None else _plain(value, choices[0], where)
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_plain(each, choices[0], where) for each in value)
    if kind is float and isinstance(value, str):
        with suppress(ValueError):
            value = float(value)  # YAML reads 1e-3, without a dot, as a string
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):  # an integer that no float can hold
            return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    if get_origin(kind) is Literal and value in choices:
        return value
    wanted = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}.get(
        kind, "a list of integers" if get_origin(kind) is tuple else f"one of {', '.join(map(str, choices))}"
    )
    raise ConfigError(f"{where} is {value!r}; it should be {wanted}.")
