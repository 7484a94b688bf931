"""The README and the docs: their commands run, every number is the measured one, every link works."""

import json
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from srcli.core.device import has_fast_int8, is_cpu
from srcli.models.registry import WEIGHTS, describe_model, select_models, shipped_models
from srcli.training.settings import read_yaml
from tests.conftest import EXAMPLES, CommandResult

ROOT = EXAMPLES.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
}
README, MODELS, BENCHMARKS = (PAGES[name] for name in ("README.md", "docs/models.md", "docs/benchmarks.md"))
RESULTS = json.loads((WEIGHTS / "figures.json").read_text(encoding="utf-8"))
SETS = ("Set5", "Set14", "BSD100")
SHORT = {"train": ["--steps", "2", "--batch", "1", "--device", "cpu"]}
"""Options that keep the commands of the docs short in the tests."""


def commands_of(page: str) -> dict[str, list[str]]:
    """Each command in the console blocks of a page with the lines that it prints."""
    return {
        command: printed.splitlines()
        for block in re.findall(r"```console\n(.*?)```", page, re.S)
        for command, _, printed in (part.partition("\n") for part in ("\n" + block).split("\n$ ")[1:])
    }


COMMANDS = {name: commands_of(page) for name, page in PAGES.items()}


@pytest.fixture
def fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the examples, like a fresh checkout."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize(
    "page", sorted(name for name, commands in COMMANDS.items() if any(c.startswith("srcli") for c in commands))
)
def test_the_commands_of_a_page_run_and_print_what_it_shows(
    page: str, fresh_folder: Path, srcli: Callable[..., CommandResult]
) -> None:
    for command, shown in COMMANDS[page].items():
        words = command.split()
        if words[0] != "srcli":
            continue
        done = srcli(*words[1:], *(SHORT.get(words[1], []) if "--check-data" not in words else []))
        assert done.exit_code == 0, f"{command}\n{done.stderr}"
        if words[1] != "train" and is_cpu("auto") and has_fast_int8():
            # the notes of several images come in any order; numbers may differ in the last digit between processors
            printed = (done.stderr + done.stdout).splitlines()
            assert sorted(map(without_numbers, printed)) == sorted(map(without_numbers, shown)), command


def without_numbers(line: str) -> str:
    """The words of a line of a table of metrics; other lines unchanged."""
    return re.sub(r"\d+\.\d+", "#", " ".join(line.split())) if " is better " in line else line.rstrip()


def test_every_make_target_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = {command.split()[1] for command in COMMANDS["README.md"] if command.startswith("make ")}
    assert {"demo", "test"} <= named <= targets


@pytest.mark.parametrize("page", sorted(name for name, text in PAGES.items() if "```python" in text))
def test_the_python_examples_of_a_page_run(page: str, fresh_folder: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", PAGES[page], re.S):
        exec(compile(block, page, "exec"), {})


def test_the_bicubic_example_upscales(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from srcli.io.read import read_image

    target = tmp_path / "bicubic.png"
    monkeypatch.setattr(sys, "argv", ["bicubic.py", str(EXAMPLES / "small" / "astronaut.png"), str(target)])
    runpy.run_path(str(EXAMPLES / "bicubic.py"), run_name="__main__")
    assert read_image(target).width == 512


@pytest.mark.parametrize("command", ["train", "upscale", "compare-loss", "models"])
def test_every_command_has_an_example_and_help(command: str, srcli: Callable[..., CommandResult]) -> None:
    assert any(f"{line} ".startswith(f"srcli {command} ") for commands in COMMANDS.values() for line in commands)
    assert "--help" in srcli(command, "--help").stdout


LINKS = [(name, link) for name, text in PAGES.items() for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text)]


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_every_link_leads_to_a_file(page: str, link: str) -> None:
    assert ((ROOT / page).parent / link).exists()


def test_every_promise_names_tests_that_exist() -> None:
    promises = re.split(r"^- ", PAGES["docs/promises.md"], flags=re.M)[1:]
    for promise in promises:
        tests = re.findall(r"`(tests/[\w/.]+)(?:::(\w+))?`", promise)
        assert tests, promise
        for file, name in tests:
            assert not name or f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), name


def test_every_result_in_the_docs_is_the_measured_one() -> None:
    for model, sets in RESULTS.items():
        t = f"{sets['speed']['t']:.2f}" if "speed" in sets else "-"
        cells = [f"{sets[name]['psnr']:.2f} | {sets[name]['ssim']:.4f} | {sets[name]['stlpips']:.3f}" for name in SETS]
        assert f"| {model} | {t} | {' | '.join(cells)} |" in BENCHMARKS


def test_the_results_in_the_readme_are_the_measured_ones() -> None:
    default = RESULTS["base-x4:int8"]["speed"]["t"]
    for use, model in (
        ("nothing", "base-x4:int8"),
        ("`--effort fast`", "tiny-x4:int8"),
        ("`--effort best`", "large-x4:int8+"),
        ("`--perceptual 1`", "base-x4-perceptual:int8"),
        ("`--denoise 1`", "base-x4-photo:int8"),
    ):
        psnr, t = RESULTS[model]["Set5"]["psnr"], RESULTS[model]["speed"]["t"]
        assert f"| {use} | {psnr:.2f} dB | {t / default:.1f} |" in README


def test_the_list_of_models_in_the_docs_is_what_the_command_prints(srcli: Callable[..., CommandResult]) -> None:
    assert srcli("models").stdout in MODELS


def test_every_shipped_model_has_results_a_card_and_settings() -> None:
    assert set(shipped_models()) == {describe_model(name).path.stem for name in RESULTS if not name.startswith("bicubic")}
    cards = " ".join(MODELS.split())
    for name in shipped_models():
        spec = describe_model(name)
        assert f"## {name}\n" in MODELS
        command = spec.about["command"]
        assert f"`{command}`" in cards
        config_file = re.search(r"-c (\S+)", command)
        assert config_file is not None
        config = read_yaml(ROOT / config_file[1])
        assert config.generator == spec.config
        assert config.train_for or config.steps == spec.about["steps"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_config_is_complete_and_valid(path: Path) -> None:
    assert read_yaml(path).steps > 0
    assert f"-c examples/{path.name}" in path.read_text(encoding="utf-8")


def test_faithful_models_beat_bicubic_on_every_set() -> None:
    for name in shipped_models():
        if describe_model(name).kind == "faithful":
            for images, bicubic in RESULTS[f"bicubic-x{describe_model(name).scale}"].items():
                assert RESULTS[name][images]["psnr"] > bicubic["psnr"] + 1
                assert RESULTS[name][images]["ssim"] > bicubic["ssim"]


def test_higher_effort_takes_longer_and_is_more_accurate_on_every_set() -> None:
    efforts = [select_models(effort=effort) for effort in ("fast", "balanced", "best")]
    for models in zip(*efforts, strict=True):
        for less, more in pairwise(RESULTS[name] for name in dict.fromkeys(model.name for model in models)):
            assert less["speed"]["t"] < more["speed"]["t"]
            assert all(less[images]["psnr"] < more[images]["psnr"] for images in SETS)
