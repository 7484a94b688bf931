"""The commands: results, streams, exit codes, and one-sentence messages for invalid usage."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from srcli.io.image import Image
from srcli.io.read import read_image
from srcli.io.write import write_image
from tests.conftest import EXAMPLES, CommandResult

Command = Callable[..., CommandResult]
Pixels = Callable[..., np.ndarray]

# upscale


def test_the_result_is_written_next_to_the_input_and_its_path_is_printed(srcli: Command, model: Path, photo: Path) -> None:
    outcome = srcli("upscale", photo, "-m", model, "--device", "cpu")
    result = photo.with_name("photo_x2.png")
    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (0, f"{result}\n", "")
    assert read_image(result).pixels.shape == (60, 80, 3)


@pytest.mark.parametrize("extension", ["png", "jpg", "jpeg", "webp", "tif", "tiff", "avif"])
def test_every_format_is_read_and_written(srcli: Command, model: Path, tmp_path: Path, pixels: Pixels, extension: str) -> None:
    source, target = tmp_path / f"in.{extension}", tmp_path / f"out.{extension}"
    write_image(Image(pixels(30, 40)), source)
    assert srcli("upscale", source, "-m", model, "-o", target).exit_code == 0
    assert read_image(target).pixels.shape == (60, 80, 3)


def test_a_folder_of_images_is_written_to_a_folder(srcli: Command, model: Path, photos: Path, tmp_path: Path) -> None:
    outcome = srcli("upscale", photos, "-m", model, "-o", tmp_path / "large")
    assert outcome.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "large").iterdir()) == ["one_x2.png", "two_x2.png"]


def test_a_second_run_on_a_folder_does_not_upscale_the_results(srcli: Command, model: Path, photos: Path) -> None:
    assert srcli("upscale", photos, "-m", model).exit_code == 0
    again = srcli("upscale", photos, "-m", model)
    assert again.exit_code == 1
    assert again.stderr.count("already exists") == 2
    assert not list(photos.glob("*_x2_x2*"))
    assert srcli("upscale", photos, "-m", model, "--overwrite").exit_code == 0


def test_one_bad_file_does_not_stop_the_others(srcli: Command, model: Path, photo: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no image")
    whole = tmp_path / "whole.jpg"
    write_image(read_image(photo), whole)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "nothing").mkdir()
    bad = [text, cut, tmp_path / "empty.png", tmp_path / "missing.png", tmp_path / "nothing"]
    outcome = srcli("upscale", *bad, photo, "-m", model, "-o", tmp_path / "out")
    assert outcome.exit_code == 1
    assert outcome.stdout == f"{tmp_path / 'out' / 'photo_x2.png'}\n"
    lines = [line for line in outcome.stderr.splitlines() if not line.startswith("srcli: tiny on ")]
    assert len(lines) == len(bad)
    for path in bad:
        assert any(line.startswith("srcli: ") and str(path) in line for line in lines), path
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["photo_x2.png"]


def test_a_format_that_is_only_read_becomes_png(srcli: Command, model: Path, photo: Path, tmp_path: Path) -> None:
    from PIL import Image as PILImage

    PILImage.open(photo).save(tmp_path / "one.bmp")
    outcome = srcli("upscale", tmp_path / "one.bmp", "-m", model)
    assert (outcome.exit_code, outcome.stdout) == (0, f"{tmp_path / 'one_x2.png'}\n")
    assert srcli("upscale", tmp_path / "one.bmp", "-m", model, "-o", tmp_path / "one_x2.bmp").exit_code == 2


def test_results_go_to_stdout_even_if_stderr_is_a_terminal(model: Path, photo: Path) -> None:
    """With a pseudo-terminal for stderr only, as in `srcli upscale ... | xargs`."""
    import pty

    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "srcli", "upscale", str(photo), "-m", str(model)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=terminal, text=True)
    os.close(terminal)
    os.close(controller)
    assert done.stdout == f"{photo.with_name('photo_x2.png')}\n"


def test_two_inputs_with_the_same_result_are_rejected(srcli: Command, model: Path, photo: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "photo.png"
    write_image(read_image(photo), other)
    outcome = srcli("upscale", photo, other, "-m", model, "-o", tmp_path / "out")
    assert outcome.exit_code == 1
    assert "would both become" in outcome.stderr
    assert srcli("upscale", photo, other, "-m", model, "-o", tmp_path / "one.png").exit_code == 2


def test_what_the_format_cannot_store_is_reported(srcli: Command, model: Path, tmp_path: Path, pixels: Pixels) -> None:
    write_image(Image(pixels(8, 8, 4)), tmp_path / "clear.png")
    outcome = srcli("upscale", tmp_path / "clear.png", "-m", model, "-o", tmp_path / "clear.jpg")
    assert outcome.exit_code == 0
    assert "does not keep everything: transparency (replaced by white)." in outcome.stderr


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["-m", "bsae-x4"], 2, "no model 'bsae-x4'. Did you mean base-x4"),
        (["-m", "missing.safetensors"], 2, "no model file missing.safetensors"),
        (["-m", "base-x4", "--effort", "best"], 2, "--model cannot be combined with --effort"),
        (["-m", "base-x4", "--perceptual", "0"], 2, "--model cannot be combined with --effort"),
        (["-m", "base-x4", "--photo"], 2, "--model cannot be combined with --effort"),
        (["--photo", "--denoise", "0.5"], 2, "--photo is short for --denoise 1. Leave out one of them."),
        (["--denoise", "2"], 2, "--denoise is 2; it must be a number from 0 to 1, or auto."),
        (["--effort", "bset"], 2, "no effort 'bset'. Did you mean best"),
        (["--perceptual", "1.5"], 2, "--perceptual is 1.5; it must be at least 0 and at most 1"),
        (["--scale", "1"], 2, "A scale of 1 keeps the size; add --denoise 1"),
        (["--scale", "0.9"], 2, "The scale is 0.9; it must be at least 1 and at most 64"),
        (["--min-side", "0"], 2, "--min-side is 0; it must be at least 1"),
        (["--skip-large"], 2, "--skip-large needs --size"),
        (["--scale", "65"], 2, "The scale is 65; it must be"),
        (["--size", "wide"], 2, "Invalid size 'wide'; write 1920x1080, 1920x or x1080"),
        (["--size", "0x10"], 2, "Invalid size '0x10'"),
        (["--size", "100x", "--scale", "2"], 2, "--scale and --size exclude each other"),
        (["--fit"], 2, "--fit needs --size"),
        (["--memory", "lots"], 2, "Invalid amount of memory 'lots'; write a number with its unit, as in 800M"),
        (["--format", "bmp"], 2, "no format 'bmp'."),
        (["--background", "pinkish"], 2, "no color 'pinkish'"),
        (["--overwrite", "--skip-existing"], 2, "--overwrite and --skip-existing exclude each other"),
        (["--max-pixels", "0"], 2, "must be at least 1"),
        (["--device", "gpu"], 2, "no device 'gpu'. Choose auto, cpu, cuda"),
        (["--tile", "3"], 2, "A tile of 3 pixels is too small"),
        (["-o", "out.bmp"], 2, "Cannot write out.bmp: supported extensions are .png"),
        (["--nonsense"], 2, "No such option"),
    ],
)
def test_invalid_usage_is_reported_in_one_sentence(
    srcli: Command, model: Path, photo: Path, words: list[str], code: int, sentence: str
) -> None:
    chosen = {"-m", "--effort", "--perceptual", "--denoise", "--photo"} & set(words)
    outcome = srcli("upscale", photo, *([] if chosen else ["-m", model]), *words)
    assert (outcome.exit_code, outcome.stdout) == (code, "")
    assert sentence in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not photo.with_name("photo_x2.png").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_an_error(srcli: Command, model: Path, photo: Path) -> None:
    outcome = srcli("upscale", photo, "-m", model, "--device", "cuda")
    assert outcome.exit_code == 1
    assert "finds no CUDA GPU. Use --device cpu" in outcome.stderr


def test_an_invalid_model_file_is_an_error(srcli: Command, photo: Path, tmp_path: Path) -> None:
    text, foreign, pickled, cut = (tmp_path / name for name in ("a.safetensors", "b.safetensors", "c.pth", "d.safetensors"))
    text.write_text("no model")
    save_file({"weight": np.zeros(3)}, foreign)
    torch.save({"weight": Path("anything")}, pickled)
    cut.write_bytes((EXAMPLES.parent / "srcli" / "models" / "weights" / "vgg16.safetensors").read_bytes()[:1000])
    for path in (text, foreign, pickled, cut):
        outcome = srcli("upscale", photo, "-m", path)
        assert outcome.exit_code == 1
        assert str(path) in outcome.stderr
        assert len(outcome.stderr.splitlines()) == 1


def test_help_and_usage_errors_do_not_import_torch() -> None:
    code = """
import sys
from srcli.cli import main
for line in sys.argv[1:]:
    try:
        main(line.split())
    except SystemExit:
        assert "torch" not in sys.modules, line
"""
    lines = ["--help", "--version", "train --help", "upscale --help", "upscale", "train", "upscale missing.png", "models"]
    subprocess.run([sys.executable, "-c", code, *lines], check=True, capture_output=True)


# images that keep their size


def test_scale_1_with_photo_removes_noise_at_the_same_size(srcli: Command, tmp_path: Path) -> None:
    clean = read_image(EXAMPLES / "small" / "astronaut.png").pixels
    noise = np.random.default_rng(0).normal(0, 15, clean.shape)
    noisy = np.clip(clean + noise, 0, 255).astype(np.uint8)
    write_image(Image(noisy), tmp_path / "noisy.png")
    outcome = srcli("upscale", tmp_path / "noisy.png", "--scale", "1", "--photo", "--device", "cpu")
    assert outcome.exit_code == 0
    result = read_image(tmp_path / "noisy_x1.png").pixels
    assert result.shape == clean.shape
    errors = [np.square(image.astype(float) - clean).mean() for image in (result, noisy)]
    assert errors[0] < errors[1] / 1.2


def test_images_that_are_large_enough_are_left_alone(
    srcli: Command, model: Path, photo: Path, tmp_path: Path, pixels: Pixels
) -> None:
    large = tmp_path / "large.png"
    write_image(Image(pixels(50, 60)), large)
    for words in (["--min-side", 50], ["--size", "60x", "--skip-large"]):
        outcome = srcli("upscale", photo, large, "-m", model, "-o", tmp_path / "out", "--json", "--overwrite", *words)
        assert outcome.exit_code == 0
        assert outcome.stderr.endswith("srcli: left 1 image alone, which is large enough.\n")
        assert [json.loads(line)["large"] for line in outcome.stdout.splitlines()] == [False, True]
        assert not list((tmp_path / "out").glob("large*"))
    outcome = srcli("upscale", large, "-m", model, "--size", "60x")
    assert outcome.exit_code == 1
    assert "is already 60x50 pixels" in outcome.stderr
    assert "Use --skip-large" in outcome.stderr


# models


@pytest.mark.parametrize(
    ("words", "models"),
    [
        (["--scale", "4"], ["base-x4:int8"]),
        (["--scale", "8"], ["base-x2:int8", "base-x4:int8"]),
        (["--effort", "fast"], ["tiny-x4:int8"]),
        (["--effort", "best", "--scale", "2"], ["large-x2:int8+"]),
        (["--perceptual", "0.25"], ["base-x4-perceptual@0.25:int8"]),
        (["--perceptual", "0.25", "--effort", "best"], ["base-x4-perceptual@0.25:int8+"]),
        (["--perceptual", "1", "--effort", "fast"], ["base-x4-perceptual:int8"]),
        (["--perceptual", "1", "--scale", "2"], ["base-x4-perceptual:int8"]),
        (["--perceptual", "1", "--scale", "8"], ["base-x2:int8", "base-x4-perceptual:int8"]),
        (["--perceptual", "1", "--effort", "fast", "--scale", "16"], ["tiny-x4:int8", "base-x4-perceptual:int8"]),
    ],
)
def test_effort_perceptual_and_scale_select_the_models(
    srcli: Command, photo: Path, tmp_path: Path, words: list[str], models: list[str]
) -> None:
    outcome = srcli("upscale", photo, "-o", tmp_path / "sr.png", "--json", *words)
    assert json.loads(outcome.stdout)["models"] == models


def test_old_model_names_are_still_accepted_with_a_notice(srcli: Command, photo: Path) -> None:
    outcome = srcli("upscale", photo, "-m", "compact-x4", "--dry-run", "--json")
    assert json.loads(outcome.stdout)["models"] == ["base-x4"]
    assert "compact-x4 is now called base-x4" in outcome.stderr


def test_naturalness_is_still_accepted_with_a_notice(srcli: Command, photo: Path, tmp_path: Path) -> None:
    outcome = srcli("upscale", photo, "-o", tmp_path / "sr.png", "--json", "--naturalness", "1")
    assert json.loads(outcome.stdout)["models"] == ["base-x4-perceptual:int8"]
    assert "--naturalness is now called --perceptual" in outcome.stderr
    assert "--naturalness" not in srcli("upscale", "--help").stdout


def test_the_shipped_models_are_listed(srcli: Command) -> None:
    from srcli.models.checkpoint import load_generator
    from srcli.models.registry import describe_model, read_benchmarks, shipped_models

    lines = srcli("models").stdout.splitlines()
    assert lines[0] == "Which one do I want?"
    assert max(map(len, lines)) <= 80
    rows = json.loads(srcli("models", "--json").stdout)
    assert {row["name"] for row in rows} >= set(shipped_models())
    for row in rows:
        generator = load_generator(describe_model(row["name"]).path)
        assert row["scale"] == generator.scale
        assert row["parameters"] == sum(weight.numel() for weight in generator.parameters())
        assert row["figures"] == read_benchmarks()[row["name"]]
        assert row["kind"] == next((kind for kind in ("perceptual", "photo") if kind in row["name"]), "faithful")
        assert row["for"]
        assert 0.1 < row["megabytes"] < 40
