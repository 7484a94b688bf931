"""Settings of a training run: YAML files and mappings in, a `TrainConfig` out, and back. And a JSON schema for editors.

A name of the command line is accepted wherever it is unambiguous: `lr-data`, `scale` outside `generator`, a loss as text.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import fields
from itertools import islice
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from srcli.config import (
    GENERATORS,
    LAYER_PRESETS,
    LOSS_TERMS,
    MAX_SIZE,
    MINIMUMS,
    VGG_LAYERS,
    LossConfig,
    TrainConfig,
    from_mapping,
    parse_loss,
    to_mapping,
)
from srcli.errors import ConfigError, SrcliError, did_you_mean

LOSS_MEANINGS = {
    "pixel": "mean squared error of RGB in 0..1",
    "l1": "mean absolute error",
    "charbonnier": "mean absolute error, smooth at zero",
    "feature": "mean distance of VGG16 features at `layers`, in units of each layer; `distance` is squared or absolute",
    "texture": "mean squared difference of local feature strength, in windows of 32 pixels (training only)",
    "tv": "mean absolute difference of neighboring pixels of the result",
    "grid": "mean squared local error of each position in a scale x scale square (training only)",
    "frequency": "mean absolute difference of the Fourier transforms (training only)",
    "consistency": "mean absolute difference after downscaling by the scale (training only)",
    "peak": "spectral peaks at multiples of 1/scale cycles per pixel, where a pixel shuffle leaves a weave (training only)",
    "adversarial": "how a discriminator that is trained along rates the result (training only)",
}
"""What each term of a loss is."""

HELP = {
    **{field.name: field.metadata.get("help", "") for field in fields(TrainConfig)},
    "generator": "The network.",
    "architecture": "compact, residual or johnson.",
    "scale": "Upscaling factor.",
    "channels": "Channels of the generator.",
    "blocks": "Blocks of the generator.",
    "slope": "Slope of residual's leaky ReLU; 0 is ReLU.",
    "loss": "Terms of the loss with their weights; those with weight 0 are not computed.",
    "layers": "VGG16 layers of the feature loss, such as relu2_2=0.5,relu4_3, or johnson, gatys, first23.",
    "distance": "Distance of features: squared or absolute.",
    **{term: f"{meaning[0].upper()}{meaning[1:]}." for term, meaning in LOSS_MEANINGS.items()},
}
"""What each setting is, as a sentence."""

SECTIONS = {
    "generator": dict.fromkeys(field.name for kind in GENERATORS.values() for field in fields(kind)),
    "loss": dict.fromkeys(field.name for field in fields(LossConfig)),
}
"""The settings below `generator` and `loss`. All others are at the top."""

COMMAND_ONLY = ("config", "resume", "overwrite", "check_data", "print_settings", "print_schema", "quiet", "verbose")
"""Options of `srcli train` that are not settings."""

WIDTH = 100
"""Columns of comments in YAML files."""


def merge(config: TrainConfig, given: Any, where: str) -> TrainConfig:
    """The config with other settings, in sections or with the names of the command line.

    Raises ConfigError for unknown and misplaced names and invalid values, with `where` they are.
    """
    mapping, given = to_mapping(config), _in_sections(given, where)
    generator, loss = given.pop("generator", {}), given.pop("loss", {})
    architecture = generator.get("architecture", mapping["generator"]["architecture"])
    for name in generator if architecture in GENERATORS else ():
        owners = [owner for owner, kind in GENERATORS.items() if name in [field.name for field in fields(kind)]]
        if owners and architecture not in owners:
            raise ConfigError(f"{where} sets {name}, which {architecture} does not have; it belongs to {', '.join(owners)}.")
    if architecture != mapping["generator"]["architecture"]:
        mapping["generator"] = {"scale": mapping["generator"]["scale"]}  # the sizes belong to another generator
    if any(term in loss for term in LOSS_TERMS):
        mapping["loss"] |= dict.fromkeys(LOSS_TERMS, 0.0)  # named terms replace the others
    return from_mapping(
        TrainConfig,
        mapping | given | {"generator": mapping["generator"] | generator, "loss": mapping["loss"] | loss},
        where,
    )


def _in_sections(given: Any, where: str) -> dict[str, Any]:
    """The settings with each name in its section. Raises ConfigError if a name is unknown, misplaced, or given twice."""
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where} should be a mapping, but is {given!r}.")
    top: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {}
    known = [field.name for field in fields(TrainConfig)]
    for key, value in given.items():
        name = str(key).replace("-", "_")
        section = next((section for section, names in SECTIONS.items() if name in names), None)
        if name in SECTIONS:
            content = _section(name, value, where)
        elif section is not None:
            name, content = section, {name: value}
        elif name in COMMAND_ONLY:
            raise ConfigError(f"{where} has the key {key!r}, which is an option of the command line only. Leave it out.")
        elif name not in known:
            raise ConfigError(f"{where} has an unknown key {key!r}. {did_you_mean(name, HELP)}")
        else:
            top[name] = _whole_numbers(value, where) if name == "milestones" else value
            continue
        twice = sections.setdefault(name, {}).keys() & content.keys()
        if twice:
            raise ConfigError(f"{where} has the key {min(twice)!r} at the top and under {name}: as well. Keep one of them.")
        sections[name] |= content
    return top | sections


def _section(section: str, value: Any, where: str) -> dict[str, Any]:
    """The settings of a section, which may be text as on the command line."""
    if section == "generator" and isinstance(value, str):
        return {"architecture": value}
    if section == "loss" and isinstance(value, str):
        terms = to_mapping(parse_loss(value))
        return {name: terms[name] for name in LOSS_TERMS}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}, {section} should be a mapping, but is {value!r}.")
    content = {str(key).replace("-", "_"): setting for key, setting in value.items()}
    for name in content:
        if name in HELP and name not in SECTIONS[section]:
            home = next((f"under {other}:" for other, names in SECTIONS.items() if name in names), "at the top")
            raise ConfigError(f"{where} has the key {name!r} under {section}:, but it belongs {home}. Move it.")
    return content


def _whole_numbers(value: Any, where: str) -> Any:
    if isinstance(value, int):
        return [value]
    if not isinstance(value, str):
        return value
    try:
        return [int(word) for word in value.split(",")]
    except ValueError:
        raise ConfigError(f"{where}: milestones is {value!r}; write integers, as in 5000,8000.") from None


def read_yaml(path: Path) -> TrainConfig:
    """Read the config of a training run. Keys that are missing in the file keep their defaults."""
    import yaml

    try:
        mapping = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SrcliError(f"Cannot read {path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not YAML: {reason}.") from None
    return merge(TrainConfig(), {} if mapping is None else mapping, str(path))


_MADE_BY = re.compile(r"# srcli.*\n# srcli \d")
"""How the settings of a run begin, which `RunDirectory.create` wrote."""


def is_settings_of_run(path: Path) -> bool:
    """Whether there is a file with the settings of a run."""
    try:
        with path.open(encoding="utf-8") as file:
            return _MADE_BY.match("".join(islice(file, 2))) is not None
    except (OSError, ValueError):
        return False


def write_yaml(config: TrainConfig) -> str:
    """The complete config as YAML, with a comment on each setting."""
    lines: list[str] = []
    for name, value in to_mapping(config).items():
        if name in SECTIONS:
            lines += ["", *_comment(name), f"{name}:"]
            for part, setting in value.items():
                lines += textwrap.indent("\n".join([*_comment(part), _yaml(part, setting)]), "  ").splitlines()
            lines += [""]
        else:
            lines += [*_comment(name), _yaml(name, value)]
    return "\n".join(lines).strip() + "\n"


def _comment(name: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(HELP[name].replace("`", ""), WIDTH)]


def _yaml(name: str, value: Any) -> str:
    import yaml

    return str(yaml.safe_dump({name: value}, default_flow_style=None if isinstance(value, list) else False)).strip()


def json_schema() -> dict[str, Any]:
    """A JSON schema of settings files, with which editors complete names and check values."""
    hints = get_type_hints(TrainConfig)
    sections = {section: {name: _setting_schema(name, section) for name in names} for section, names in SECTIONS.items()}
    properties: dict[str, Any] = {}
    for name, kind in hints.items():
        properties[name] = (
            {"type": ["object", "string"], "properties": sections[name], "additionalProperties": False}
            if name in SECTIONS
            else _type_schema(kind)
        ) | {"description": HELP[name].replace("`", "")}
        if name in MINIMUMS:
            properties[name]["minimum"] = MINIMUMS[name]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of srcli train",
        "type": "object",
        "properties": sections["generator"] | sections["loss"] | properties,
        "additionalProperties": False,
    }


def _setting_schema(name: str, section: str) -> dict[str, Any]:
    if name == "architecture":
        schema: dict[str, Any] = {"enum": list(GENERATORS)}
    elif name == "layers":
        weights = {"type": "object", "propertyNames": {"enum": list(VGG_LAYERS)}, "additionalProperties": _type_schema(float)}
        schema = {"anyOf": [weights, {"type": "string", "examples": [*LAYER_PRESETS]}]}
    elif section == "loss":
        schema = _type_schema(get_type_hints(LossConfig)[name]) | ({"minimum": 0} if name in LOSS_TERMS else {})
    else:
        ranges = {"scale": (2, 8), "channels": (1, MAX_SIZE), "blocks": (1, MAX_SIZE), "slope": (0, 1)}
        least, most = ranges[name]
        schema = {"type": "number" if name == "slope" else "integer", "minimum": least, "maximum": most}
    return schema | {"description": HELP[name].replace("`", "")}


def _type_schema(kind: Any) -> dict[str, Any]:
    choices = get_args(kind)
    if get_origin(kind) is Literal:
        return {"enum": list(choices)}
    if get_origin(kind) is tuple:
        return {"type": ["array", "string", "integer"], "items": _type_schema(choices[0])}
    if get_origin(kind) in (Union, UnionType):
        return {"type": [_type_schema(choices[0])["type"], "null"]}
    return {"type": {int: "integer", float: "number", bool: "boolean", str: "string"}[kind]}
