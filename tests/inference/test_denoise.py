"""How much to denoise is estimated from the file, and clean images are left alone."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from srcli.inference.batch import BatchUpscaler, ProgressCallbacks, UpscaleOptions
from srcli.inference.denoise import LEVELS, estimate_denoise, noise_level
from srcli.inference.plan import Size, plan
from srcli.inference.tiling import plan_tiling
from srcli.io.jpeg_segments import estimated_quality, read_segments
from srcli.models.registry import select_models
from tests.conftest import EXAMPLES

PHOTO = EXAMPLES / "small" / "astronaut.png"


def saved(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    with Image.open(EXAMPLES / "photos" / "chelsea.png") as file:
        return np.array(file.convert("RGB"))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("quality", [25, 50, 75, 90, 95, 100])
def test_the_quality_of_a_jpeg_is_read_from_its_tables(photo: np.ndarray, quality: int, options: dict[str, object]) -> None:
    file = io.BytesIO(saved(photo, "JPEG", quality=quality, **options))
    assert estimated_quality(read_segments(file)[0]) == pytest.approx(quality, abs=2)


def test_a_file_without_tables_has_no_quality() -> None:
    assert estimated_quality([]) is None
    assert estimated_quality([(0xDB, b"")]) is None
    assert estimated_quality([(0xDB, bytes(20))]) is None


def test_the_worse_the_jpeg_the_more_is_removed(photo: np.ndarray) -> None:
    levels = [estimate_denoise(saved(photo, "JPEG", quality=quality)).level for quality in (98, 90, 80, 60, 30)]
    assert levels[0] == 0
    assert levels == sorted(levels)
    assert levels[-1] == 1
    assert set(levels) <= set(LEVELS)


@pytest.mark.parametrize("path", [PHOTO, *sorted((EXAMPLES / "photos").glob("*.png"))], ids=lambda path: path.stem)
def test_a_clean_photograph_is_left_alone(path: Path) -> None:
    assert estimate_denoise(path).level == 0


@pytest.mark.parametrize("kind", ["gradient", "flat", "checkerboard"])
def test_a_clean_drawing_is_left_alone(kind: str) -> None:
    y, x = np.mgrid[:128, :128]
    image = {"gradient": 40 + x, "flat": x * 0 + 90, "checkerboard": 60 + 120 * ((x // 4 + y // 4) % 2)}[kind]
    assert estimate_denoise(saved(np.repeat(image[..., None], 3, axis=2).astype(np.uint8))).level == 0


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("sigma", [6, 12])
def test_white_noise_is_measured(photo: np.ndarray, sigma: int, channels: int) -> None:
    noise = np.random.default_rng(0).normal(0, sigma, photo.shape[:2])
    noisy = np.clip(photo[..., 1] + noise, 0, 255).astype(np.uint8)
    assert noise_level(noisy.astype(np.float32)) == pytest.approx(sigma, rel=0.15)
    pixels = noisy if channels == 1 else np.repeat(noisy[..., None], channels, axis=2)
    estimate = estimate_denoise(saved(pixels))
    assert estimate.level >= 0.5
    assert "noise of about" in estimate.reason
    deep = noisy.astype(np.uint16) * 257
    assert estimate_denoise(saved(deep)).level == estimate_denoise(saved(noisy)).level


def test_a_batch_chooses_for_each_image_and_reports_each_level_once(tmp_path: Path, photo: np.ndarray) -> None:
    small = photo[100:164, 100:180]
    for name, quality in {"a": 70, "b": 70, "c": 99}.items():
        (tmp_path / f"{name}.jpg").write_bytes(saved(small, "JPEG", quality=quality))
    notes: list[str] = []
    options = UpscaleOptions(
        Size(scale=2),
        select_models(),
        plan_tiling(None, None),
        models_by_denoise={level: (select_models(denoise=level), ()) for level in LEVELS},
        device="cpu",
    )
    jobs = plan([str(tmp_path)], str(tmp_path / "out"), Size(scale=2))
    results = list(BatchUpscaler(options, ProgressCallbacks(on_note=notes.append)).run(jobs))
    assert [(result.error, result.denoise) for result in results] == [(None, 0.75), (None, 0.75), (None, 0)]
    assert [result.models for result in results] == [("base-x2-photo@0.75:int8",)] * 2 + [("base-x2:int8",)]
    assert sum("JPEG quality of about 70" in note for note in notes) == 1
