"""Settings files: names of the command line in them, messages about misplaced keys, comments, and the JSON schema."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from srcli.config import CompactConfig, LossConfig, ResidualConfig, TrainConfig, to_mapping
from srcli.errors import ConfigError
from srcli.training.settings import HELP, json_schema, merge, read_yaml, write_yaml
from tests.conftest import EXAMPLES


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ({"scale": 2}, {"generator": {"scale": 2}}),
        ({"generator": "residual", "channels": 8}, {"generator": {"architecture": "residual", "channels": 8}}),
        ({"generator": {"channels": 8}, "scale": 3}, {"generator": {"channels": 8, "scale": 3}}),
        (
            {"loss": "pixel=1,feature=0.1", "layers": "johnson"},
            {"loss": {"pixel": 1, "feature": 0.1, "layers": {"relu2_2": 1}}},
        ),
        ({"l1": 1}, {"loss": {"l1": 1}}),
        ({"max-time": "90m", "lr-data": "small"}, {"max_time": "90m", "lr_data": "small"}),
        ({"schedule": "multistep", "milestones": "5,8"}, {"schedule": "multistep", "milestones": [5, 8]}),
        ({"schedule": "multistep", "milestones": 5}, {"schedule": "multistep", "milestones": [5]}),
    ],
)
def test_names_of_the_command_line_are_accepted(given: dict[str, Any], same: dict[str, Any]) -> None:
    assert merge(TrainConfig(), given, "here") == merge(TrainConfig(), same, "here") != TrainConfig()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"scale": 2, "generator": {"scale": 3}}, "here has the key 'scale' at the top and under generator: as well"),
        ({"generator": {"steps": 5}}, "here has the key 'steps' under generator:, but it belongs at the top. Move it."),
        ({"loss": {"scale": 4}}, "but it belongs under generator:"),
        ({"generator": {"layers": "johnson"}}, "but it belongs under loss:"),
        ({"overwrite": True}, "'overwrite', which is an option of the command line only"),
        ({"chanels": 4}, "unknown key 'chanels'. Did you mean channels"),
        ({"generator": {"chanels": 4}}, "unknown key 'chanels'. Did you mean channels"),
        ({"slope": 0.1}, "here sets slope, which compact does not have; it belongs to residual."),
        ({"milestones": "a,b"}, "write integers, as in 5000,8000"),
        ({"loss": "pixel"}, "write pixel=1"),
        ({"loss": 5}, "here, loss should be a mapping, but is 5"),
        ([1], "here should be a mapping"),
    ],
)
def test_misplaced_and_unknown_keys_are_rejected_with_their_place(given: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        merge(TrainConfig(), given, "here")


def test_another_generator_has_its_own_sizes_and_keeps_the_scale() -> None:
    config = TrainConfig(generator=CompactConfig(scale=2, channels=8))
    assert merge(config, {"architecture": "residual"}, "here").generator == ResidualConfig(scale=2)
    assert merge(config, {"architecture": "compact"}, "here").generator == config.generator


def test_a_named_loss_term_replaces_the_others_and_keeps_the_layers() -> None:
    config = TrainConfig(loss=LossConfig(feature=1, layers={"relu1_2": 1.0}))
    assert merge(config, {"loss": "l1=1"}, "here").loss == LossConfig(pixel=0, l1=1, layers={"relu1_2": 1.0})
    assert merge(config, {"distance": "absolute"}, "here").loss.feature == 1


def test_every_setting_in_a_written_file_has_its_comment(tmp_path: Path) -> None:
    config = TrainConfig(generator=ResidualConfig(scale=3), photos="a b: c", milestones=(5, 8), schedule="multistep")
    text = write_yaml(config)
    (tmp_path / "run.yaml").write_text(text)
    assert read_yaml(tmp_path / "run.yaml") == config
    assert yaml.safe_load(text) == to_mapping(config)
    mapping = to_mapping(config)
    lines = [line.strip() for line in text.splitlines()]
    for name in [*mapping, *mapping["generator"], *mapping["loss"]]:
        assert HELP[name].endswith(".")
        place = next(number for number, line in enumerate(lines) if line.startswith(f"{name}:"))
        assert lines[place - 1].startswith("# ")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_schema_accepts_every_example(path: Path) -> None:
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    # editors read YAML 1.2, where 2e-3 is a number
    numbers = {name: float(value) for name, value in settings.items() if re.fullmatch(r"\d+e-?\d+", str(value))}
    jsonschema.validate(settings | numbers, json_schema())


def test_the_schema_accepts_the_defaults_and_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    jsonschema.validate(to_mapping(TrainConfig()), json_schema())
    jsonschema.validate({"scale": 2, "generator": "residual", "loss": "pixel=1", "layers": "johnson"}, json_schema())


@pytest.mark.parametrize(
    "given",
    [{"stpes": 5}, {"steps": 0}, {"steps": "5"}, {"log": "text"}, {"generator": {"steps": 5}}, {"loss": {"l1": -1}}],
)
def test_the_schema_rejects_what_the_command_rejects(given: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(given, json_schema())
    with pytest.raises(ConfigError):
        merge(TrainConfig(), given, "here")
