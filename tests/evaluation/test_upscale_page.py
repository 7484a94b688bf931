"""The page of `srcli upscale --compare`: its content, and when it is rejected."""

import base64
import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pyvips
from PIL import Image as PILImage

from srcli.inference.previews import DETAIL, SIDE, Preview, PreviewPair
from srcli.io.image import Image
from srcli.io.read import read_exact_srgb, read_image
from srcli.io.write import write_image
from tests.conftest import CommandResult, dom_of, needs_browser

Command = Callable[..., CommandResult]
Pixels = Callable[..., np.ndarray]


def images_in(page: Path) -> list[PILImage.Image]:
    """The images on the page, in order: bicubic, result, bicubic, ..."""
    return [
        PILImage.open(io.BytesIO(base64.b64decode(data)))
        for data in re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]+)"', page.read_text(encoding="utf-8"))
    ]


def pixels_of(file: bytes) -> np.ndarray:
    return np.asarray(PILImage.open(io.BytesIO(file))).astype(float)


# the previews


def previews_of(source: Path, result: Path, pixels: np.ndarray, size: tuple[int, int]) -> tuple[PreviewPair, ...]:
    """The previews of an image and of a result that is bicubic interpolation as well."""
    PILImage.fromarray(pixels).save(source)
    PILImage.fromarray(pixels).resize(size, PILImage.Resampling.BICUBIC).save(result)
    return Preview(source, size).with_result(result)


def test_a_small_result_is_shown_pixel_for_pixel(tmp_path: Path, pixels: Pixels) -> None:
    (preview,) = previews_of(tmp_path / "lr.png", tmp_path / "sr.png", pixels(30, 40), (160, 120))
    assert (preview.region.width, preview.region.height, preview.region.shown) == (160, 120, (160, 120))
    result = np.asarray(PILImage.open(tmp_path / "sr.png")).astype(float)
    assert np.abs(pixels_of(preview.result) - result).mean() < 1
    np.testing.assert_allclose(pixels_of(preview.bicubic), pixels_of(preview.result), atol=2)


@pytest.mark.parametrize("size", [(2000, 1500), (1300, 1700)])
def test_a_large_result_is_shown_downscaled_and_in_details_at_the_same_position(
    tmp_path: Path, pixels: Pixels, size: tuple[int, int]
) -> None:
    whole, *details = previews_of(tmp_path / "lr.png", tmp_path / "sr.png", pixels(375, 500), size)
    assert max(whole.region.shown) == SIDE
    assert pixels_of(whole.result).shape[1::-1] == whole.region.shown
    np.testing.assert_allclose(pixels_of(whole.bicubic), pixels_of(whole.result), atol=12)
    assert len(details) == 3
    assert len({(preview.region.left, preview.region.top) for preview in details}) == 3
    result = np.asarray(PILImage.open(tmp_path / "sr.png")).astype(float)
    for preview in details:
        region = preview.region
        assert (region.width, region.height) == region.shown == (DETAIL, DETAIL)
        place = result[region.top : region.top + region.height, region.left : region.left + region.width]
        np.testing.assert_allclose(pixels_of(preview.result), place, atol=8)
        np.testing.assert_allclose(pixels_of(preview.bicubic), place, atol=8)


def test_details_are_the_regions_with_the_most_contrast(tmp_path: Path) -> None:
    pixels = np.full((400, 400), 128, dtype=np.uint8)
    pixels[300:380, 20:100] = np.random.default_rng(0).integers(0, 256, (80, 80))
    _, *details = previews_of(tmp_path / "lr.png", tmp_path / "sr.png", pixels, (1600, 1600))
    assert (0, 1020) in {(preview.region.left, preview.region.top) for preview in details}


@pytest.mark.parametrize(("height", "width"), [(1, 3000), (3000, 1)])
def test_an_image_of_one_row_or_column_is_shown(tmp_path: Path, pixels: Pixels, height: int, width: int) -> None:
    whole, *details = previews_of(tmp_path / "lr.png", tmp_path / "sr.png", pixels(height, width), (width * 2, height * 2))
    assert sorted(whole.region.shown) == [1, SIDE]
    assert {tuple(sorted(preview.region.shown)) for preview in details} == {(2, DETAIL)}


@pytest.mark.parametrize("channels", [2, 4])
def test_transparency_is_preserved(tmp_path: Path, pixels: Pixels, channels: int) -> None:
    image = pixels(30, 40, channels)
    write_image(Image(image), tmp_path / "lr.png")
    write_image(Image(image.repeat(2, axis=0).repeat(2, axis=1)), tmp_path / "sr.png")
    (preview,) = Preview(tmp_path / "lr.png", (80, 60)).with_result(tmp_path / "sr.png")
    seen = pixels_of(preview.result)
    np.testing.assert_allclose(seen[..., 3], read_exact_srgb(tmp_path / "sr.png")[..., 3])
    assert pixels_of(preview.bicubic).shape == seen.shape == (60, 80, 4)


@pytest.mark.parametrize("depth", [8, 16])
def test_colors_are_converted_to_srgb(tmp_path: Path, pixels: Pixels, depth: int) -> None:
    path = tmp_path / "wide gamut.png"
    calm = pyvips.Image.new_from_array(pixels(30, 40) // 2 + 64).copy(interpretation="srgb")
    calm.icc_transform("p3", input_profile="srgb", depth=depth).pngsave(str(path))
    (preview,) = Preview(path, (40, 30)).with_result(path)
    expected = read_exact_srgb(path, deep=False).astype(float)
    raw = read_image(path).pixels / (257 if depth == 16 else 1)
    assert np.abs(raw - expected).mean() > 2
    for file in (preview.bicubic, preview.result):
        assert np.abs(pixels_of(file) - expected).mean() < 1.5


# the page


def test_a_page_shows_what_was_upscaled(srcli: Command, model: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "bad <b>.png").write_bytes(b"")
    (photos / "one.png").rename(photos / "one <b>$x.png")
    page = tmp_path / "new" / "page.html"
    outcome = srcli("upscale", photos, "-r", "-m", model, "-o", tmp_path / "out", "--device", "cpu", "--compare", page)
    assert outcome.exit_code == 1
    assert f"{page} compares 3 images with bicubic interpolation." in outcome.stderr
    assert len(outcome.stdout.splitlines()) == 3
    text = page.read_text(encoding="utf-8")
    assert "http" not in text
    assert "bad" not in text
    assert "<b>" not in text
    assert "one &lt;b&gt;$x.png, 96x80 pixels, to " in text
    assert "192x160 pixels: tiny on cpu (OpenVINO, fp32), " in text
    images = images_in(page)
    assert [image.size for image in images] == [(192, 160)] * 6
    first = read_image(tmp_path / "out" / "one <b>$x_x2.png").pixels.astype(float)
    assert np.abs(np.asarray(images[3]) - first).mean() < 3
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]


def test_an_image_that_is_replaced_is_compared_with_its_former_content(srcli: Command, model: Path, photo: Path) -> None:
    before = PILImage.open(photo).convert("RGB").resize((80, 60), PILImage.Resampling.BICUBIC)
    page = photo.with_name("page.html")
    assert srcli("upscale", photo, "-m", model, "-o", photo, "--in-place", "--compare", page).exit_code == 0
    assert read_image(photo).width == 80
    np.testing.assert_allclose(np.asarray(images_in(page)[0]).astype(float), np.asarray(before), atol=8)


def test_existing_results_are_shown(srcli: Command, model: Path, photos: Path, tmp_path: Path) -> None:
    words = ["upscale", photos, "-m", model, "--skip-existing"]
    assert srcli(*words).exit_code == 0
    assert srcli(*words, "--compare", tmp_path / "page.html").exit_code == 0
    assert (tmp_path / "page.html").read_text().count("192x160 pixels: existing result.") == 2
    assert len(images_in(tmp_path / "page.html")) == 4


def test_a_page_shows_a_limited_number_of_images(
    srcli: Command, model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srcli.cli.upscale.MAX_PREVIEWS", 1)
    assert srcli("upscale", photos, "-r", "-m", model, "--compare", tmp_path / "page.html").exit_code == 0
    assert "This page shows the first 1 of 3 images." in (tmp_path / "page.html").read_text()
    assert len(images_in(tmp_path / "page.html")) == 2


def test_images_from_pipes_are_shown(model: Path, photo: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    command = [sys.executable, "-m", "srcli", "upscale", "-", "-m", str(model), "--compare", str(page)]
    done = subprocess.run(command, input=photo.read_bytes(), capture_output=True, check=True)
    assert PILImage.open(io.BytesIO(done.stdout)).size == (80, 60)
    assert "stdin, 40x30 pixels, to stdout, 80x60 pixels" in page.read_text()
    assert len(images_in(page)) == 2


def test_no_page_is_written_if_no_image_was_upscaled(srcli: Command, model: Path, photo: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert srcli("upscale", photo, "-m", model, "--dry-run", "--compare", page).exit_code == 0
    (tmp_path / "empty.png").write_bytes(b"")
    assert srcli("upscale", tmp_path / "empty.png", "-m", model, "--compare", page).exit_code == 1
    assert not page.exists()


@pytest.mark.parametrize(
    ("page", "code", "sentence"),
    [
        ("other.png", 2, "its name must end in .html (got "),
        ("there.html", 1, "there.html already exists. Use --overwrite"),
        ("folder.html", 1, "folder.html is a folder"),
        ("there.html/page.html", 1, "Cannot write"),
        ("photo.html", 1, "photo.html is one of the images"),
    ],
)
def test_a_page_that_cannot_be_written_is_rejected_before_the_work(
    srcli: Command, model: Path, photo: Path, tmp_path: Path, page: str, code: int, sentence: str
) -> None:
    (tmp_path / "there.html").write_text("mine")
    (tmp_path / "folder.html").mkdir()
    photo.rename(tmp_path / "photo.html")
    words = ["upscale", tmp_path / "photo.html", "-m", model, "-o", tmp_path / "sr.png", "--compare", tmp_path / page]
    outcome = srcli(*words)
    assert (outcome.exit_code, outcome.stdout) == (code, "")
    assert sentence in outcome.stderr
    assert not (tmp_path / "sr.png").exists()
    assert (tmp_path / "there.html").read_text() == "mine"


def test_a_page_is_replaced_only_with_overwrite(srcli: Command, model: Path, photo: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine")
    assert srcli("upscale", photo, "-m", model, "--overwrite", "--compare", page).exit_code == 0
    assert len(images_in(page)) == 2


@needs_browser
def test_the_page_works_in_a_browser(srcli: Command, model: Path, photo: Path, tmp_path: Path, pixels: Pixels) -> None:
    """Move two sliders, one over a transparent image, and check the page."""
    write_image(Image(pixels(30, 700, 4)), tmp_path / "wide.png")
    page = tmp_path / "page.html"
    assert srcli("upscale", photo, tmp_path / "wide.png", "-m", model, "-o", tmp_path / "out", "--compare", page).exit_code == 0
    acts = """<script>
      const cuts = [...document.querySelectorAll(".cut")];
      for (const [number, value] of [[0, "25"], [1, "100"]]) {
        cuts[number].value = value;
        cuts[number].dispatchEvent(new Event("input"));
      }
      const left = image => getComputedStyle(image).clipPath;
      document.title = [
        cuts.length,
        ...[...document.querySelectorAll(".slider")].map(slider => slider.style.getPropertyValue("--cut") || "-"),
        left(document.querySelector(".over")),
        [...document.images].filter(image => image.complete && image.naturalWidth === 0).length,
        document.documentElement.scrollWidth <= window.innerWidth,
      ].join(" ");
    </script>"""
    page.write_text(page.read_text().replace("</body>", acts + "</body>"))
    assert "<title>5 25% 100% - - - inset(0px 0px 0px 25%) 0 true</title>" in dom_of(page)
