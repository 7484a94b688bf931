"""The help of every command, what the shell completes, and how much a command says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from srcli.config import LAYER_PRESETS, LOSS_TERMS, VGG_LAYERS
from tests.conftest import CommandResult

Command = Callable[..., CommandResult]
COMMANDS = ("upscale", "train", "compare-loss", "models", "export", "losses")


def panels(text: str) -> dict[str, str]:
    """The text of each panel by its title."""
    return dict(re.findall(r"╭─ (.+?) ─+╮\n(.*?)╰", text, re.S))


def options(panel: str) -> list[str]:
    """The options of a panel, each by its first long name."""
    return re.findall(r"^│ (--[\w-]+)", panel, re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_fits_80_columns_and_ends_with_examples(srcli: Command, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = srcli(command, "--help").stdout
    assert max(map(len, text.splitlines())) == 80
    titles = list(panels(text))
    assert titles[-1] == "Examples"
    examples = re.findall(r"^│ (srcli [\w-]+)", panels(text)["Examples"], re.M)
    assert len(examples) >= 2
    assert set(examples) == {f"srcli {command}"}
    assert "…" not in text  # nothing is cut off


@pytest.mark.parametrize("command", COMMANDS)
def test_the_first_panel_has_few_options_and_no_panel_has_types_of_python(srcli: Command, command: str) -> None:
    found = panels(srcli(command, "--help").stdout)
    assert len(options(found["Options"])) <= 13
    assert options(found["Messages"]) == ["--quiet", "--verbose"]
    assert not re.search(r"<(bool|str|int|float|path|list)|TEXT|INTEGER", "".join(found.values()))


@pytest.mark.parametrize("command", ["upscale", "train", "compare-loss"])
def test_examples_in_the_help_are_valid_usage(
    srcli: Command, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the files of the examples are missing, which is no invalid usage
    for example in re.findall(r"^│ srcli (.*?) *│$", panels(srcli(command, "--help").stdout)["Examples"], re.M):
        result = srcli(*example.split())
        assert result.exit_code == 1, (example, result.stderr)


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["up"], ["upscale"]),
        (["upscale", "-m", "base-x4"], ["base-x4", "base-x4-perceptual", "base-x4-photo"]),
        (["upscale", "-m", "runs/"], []),  # bash completes files then
        (["upscale", "photos/"], []),
        (["upscale", "--effort", "b"], ["balanced", "best"]),
        (["train", "--layers", "relu2"], ["relu2_1", "relu2_2"]),
        (["train", "--optimizer", ""], ["muon", "adam", "adamw"]),
    ],
)
def test_the_shell_completes_commands_models_and_choices(
    srcli: Command, monkeypatch: pytest.MonkeyPatch, words: list[str], completed: list[str]
) -> None:
    """In bash."""
    variables = {"_SRCLI_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(["srcli", *words]), "COMP_CWORD": str(len(words))}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert srcli().stdout.split() == completed


def test_quiet_prints_results_and_errors_only(srcli: Command, photo: Path, tmp_path: Path) -> None:
    result = srcli("upscale", photo, tmp_path / "missing.png", "-o", tmp_path / "large", "--scale", 3, "--quiet")
    assert result.stdout == f"{tmp_path / 'large' / 'photo_x3.png'}\n"
    assert len(result.stderr.splitlines()) == 1
    assert "missing.png" in result.stderr


def test_verbose_prints_the_model_device_and_time_of_each_image(srcli: Command, photo: Path, model: Path) -> None:
    result = srcli("upscale", photo, "-m", model, "--device", "cpu", "-v")
    assert re.search(rf"{photo}: tiny on cpu \(.*\), \d+\.\d s\.", result.stderr)
    assert srcli("upscale", photo, "-m", model, "--device", "cpu", "--overwrite").stderr == ""


def test_losses_are_printed_as_json(srcli: Command) -> None:
    found = json.loads(srcli("losses", "--json").stdout)
    assert list(found["terms"]) == list(LOSS_TERMS)
    assert {name: tuple(layers) for name, layers in found["presets"].items()} == LAYER_PRESETS
    assert [layer["name"] for layer in found["layers"]] == list(VGG_LAYERS)
    by_name = {layer["name"]: layer for layer in found["layers"]}
    assert by_name["relu4_3"]["receptive_field"] == 92  # the published value for conv4_3 of VGG16
