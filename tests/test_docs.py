"""The README keeps its word: its commands run, every command of srcli stands in it, every figure is the measured one."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from srcli.config import read_yaml
from srcli.core.device import is_cpu
from srcli.io.read import read_image
from srcli.models.registry import WEIGHTS, describe_model, select_models, shipped_models
from tests.conftest import EXAMPLES, CommandResult

ROOT = EXAMPLES.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CARD = (WEIGHTS / "MODELS.md").read_text(encoding="utf-8")
FIGURES = json.loads((WEIGHTS / "figures.json").read_text(encoding="utf-8"))
SHOWN = {
    command: printed.splitlines()
    for block in re.findall(r"```console\n(.*?)```", README, re.S)
    for command, _, printed in (part.partition("\n") for part in ("\n" + block).split("\n$ ")[1:])
}
"""Each command in the README's consoles with the lines below it."""
CONSOLE = list(SHOWN)
SHORT = {"train": ["--steps", "2", "--batch", "1", "--device", "cpu"]}


@pytest.fixture
def fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the README's reader stands: examples, and some photographs of their own."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    shutil.copytree(EXAMPLES / "photos", tmp_path / "holiday")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_of_the_readme_runs(fresh_folder: Path) -> None:
    commands = [command for command in CONSOLE if command.startswith("srcli ")]
    assert len(commands) >= 6
    for command in commands:
        words = command.split()
        run = [sys.executable, "-m", "srcli", *words[1:], *SHORT.get(words[1], [])]
        done = subprocess.run(run, check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        if words[1] == "upscale" and is_cpu("auto"):  # what several images have said of them may come in another order
            assert sorted((done.stderr + done.stdout).splitlines()) == sorted(SHOWN[command]), command


def test_every_make_target_of_the_readme_is_there() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = {command.split()[1] for command in CONSOLE if command.startswith("make ")}
    assert {"demo", "test"} <= named <= targets


def test_the_python_of_the_readme_runs(fresh_folder: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert blocks
    for block in blocks:
        done = subprocess.run([sys.executable, "-c", block], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_example_that_make_demo_runs_upscales(tmp_path: Path) -> None:
    target = tmp_path / "bicubic.png"
    words = [str(EXAMPLES / "bicubic.py"), str(EXAMPLES / "small" / "astronaut.png"), str(target)]
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    assert read_image(target).width == 512


@pytest.mark.parametrize("command", ["train", "upscale", "compare-loss", "models", "export"])
def test_every_command_stands_in_the_readme_and_has_help(command: str) -> None:
    assert any(f"{line} ".startswith(f"srcli {command} ") for line in CONSOLE)
    done = subprocess.run([sys.executable, "-m", "srcli", command, "--help"], check=True, capture_output=True, text=True)
    assert "--help" in done.stdout


@pytest.mark.parametrize("path", [*re.findall(r"\]\((?!https?:)([^)#]+)\)", README)])
def test_every_file_that_the_readme_links_to_is_there(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("text", [README, CARD], ids=["README", "card"])
def test_every_figure_is_the_measured_one(text: str) -> None:
    """The rows of the table that benchmarks/quality.py wrote to figures.json stand in the text to the digit."""
    for model, sets in FIGURES.items():
        t = f"{sets['speed']['t']:.2f}" if "speed" in sets else "-"
        figures = [
            f"{sets[name]['psnr']:.2f} | {sets[name]['ssim']:.4f} | {sets[name]['stlpips']:.3f}"
            for name in ("Set5", "Set14", "BSD100")
        ]
        assert f"| {model} | {t} | {' | '.join(figures)} |" in text


def test_the_list_of_models_in_the_readme_is_what_the_command_prints(srcli: Callable[..., CommandResult]) -> None:
    assert srcli("models").stdout in README


def test_every_shipped_model_has_its_figures_its_section_and_its_settings() -> None:
    assert set(shipped_models()) == {describe_model(name).path.stem for name in FIGURES if not name.startswith("bicubic")}
    for name in shipped_models():
        description = describe_model(name)
        assert f"## {name}\n" in CARD
        command = description.about["command"]
        assert f"`{command}`" in CARD
        config_file = re.search(r"-c (\S+)", command)
        assert config_file is not None
        config = read_yaml(ROOT / config_file[1])
        assert config.generator == description.config
        assert config.steps == description.about["steps"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_configuration_is_sound(path: Path) -> None:
    read_yaml(path)


def test_the_models_are_visibly_better_than_bicubic_on_every_set() -> None:
    for name in shipped_models():
        if describe_model(name).kind == "faithful":
            for images, bicubic in FIGURES[f"bicubic-x{describe_model(name).scale}"].items():
                assert FIGURES[name][images]["psnr"] > bicubic["psnr"] + 1
                assert FIGURES[name][images]["ssim"] > bicubic["ssim"]


def test_more_time_gives_more_on_every_set() -> None:
    qualities = [select_models(quality=quality) for quality in ("fast", "balanced", "best")]
    for models in zip(*qualities, strict=True):
        ladder = [FIGURES[model.name] for model in models]
        for less, more in pairwise(ladder):
            assert less["speed"]["t"] < more["speed"]["t"]
            assert all(less[images]["psnr"] < more[images]["psnr"] for images in ("Set5", "Set14", "BSD100"))
