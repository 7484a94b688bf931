"""The command for a borrowed GPU and the pack of photographs for it, tried on the CPU."""

import json
from pathlib import Path
from typing import Any

import gpu
import numpy as np
import pack_photos
import pytest
from PIL import Image

from srcli.models.registry import describe_model
from tests.conftest import EXAMPLES


def run_stage(stage: str, output: Path) -> dict[str, Any]:
    """Each stage has time of its own, so that a slow machine leaves none of them out."""
    options = ["-o", str(output), "--minutes", "0.02", "--device", "cpu", "--cache", "none", "--only", stage]
    assert gpu.main([str(EXAMPLES / "photos"), *options, "--models", "tiny-x4", "--ladder", "smallest"]) == 0
    figures: dict[str, Any] = json.loads((output / "figures.json").read_text())[stage]
    return figures


def test_the_command_measures_trains_and_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_stage("upscale", tmp_path / "upscale")["tiny-x4"]["largest difference"] == 0
    speed = run_stage("throughput", tmp_path / "throughput")["smallest"]
    assert speed["images_per_second"] == pytest.approx(4 * speed["steps_per_second"])
    assert 0 < speed["peak_share"] < 1
    capsys.readouterr()
    output = tmp_path / "train"
    steps = run_stage("train", output)["smallest"]["steps"]
    assert steps == describe_model(output / "smallest.safetensors").about["steps"] > 0
    assert (output / "figures.md").read_text().strip() == capsys.readouterr().out.strip()


def test_a_pack_is_as_good_as_fits(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        coarse.resize((128, 96), Image.Resampling.BICUBIC).save(photos / f"{number}.png")
    sizes = {}
    for limit in (4_000, 8_000):
        quality, count, size = pack_photos.pack([photos], tmp_path / f"pack{limit}", limit, 0)
        files = list((tmp_path / f"pack{limit}").iterdir())
        assert (count, size) == (3, sum(file.stat().st_size for file in files))
        assert size <= limit
        sizes[limit] = quality
    assert sizes[4_000] < sizes[8_000]
    with pytest.raises(SystemExit, match="not empty"):
        pack_photos.pack([tmp_path / "pack4000"], tmp_path / "pack4000", 1e6, 0)
