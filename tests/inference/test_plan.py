"""Which files a batch reads and writes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from srcli.errors import ConfigError
from srcli.inference.plan import Size, plan
from tests.conftest import CommandResult

Command = Callable[..., CommandResult]
X4 = Size(scale=4)


def targets(*inputs: Path, output: Path | None = None, size: Size = X4, **options: str) -> list[str]:
    jobs = plan([str(path) for path in inputs], None if output is None else str(output), size, **options)
    assert not [job.error for job in jobs if job.error]
    return [job.target.name for job in jobs]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("photo.JPG", "photo_x4.JPG"), ("a.jfif", "a_x4.jfif"), ("a.bmp", "a_x4.png"), ("a.heic", "a_x4.png"), ("a", "a_x4.png")],
)
def test_results_have_the_format_of_their_images_or_png(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / name).touch()
    assert targets(tmp_path / name) == [expected]


@pytest.mark.parametrize(
    ("template", "size", "expected"),
    [
        ("{stem}.{ext}", X4, "photo.png"),
        ("{stem}-{model}@{scale}x.{ext}", X4, "photo-base-x4-int8@4x.png"),
        ("{width}x{height}_{stem}.{ext}", X4, "160x120_photo.png"),
        ("{width}w.{ext}", Size(width=100), "100w.png"),
        ("{stem}{suffix}.{ext}", Size(width=100), "photo_100w.png"),
    ],
)
def test_names_follow_the_template(photo: Path, tmp_path: Path, template: str, size: Size, expected: str) -> None:
    assert targets(photo, output=tmp_path / "out", size=size, name=template, model="base-x4:int8") == [expected]


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{stm}.{ext}", r"has the field \{stm\}. Did you mean stem"),
        ("{stem", "is no template"),
        ("../{stem}.{ext}", "names files, not folders"),
    ],
)
def test_a_template_that_is_wrong_is_explained(photo: Path, template: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        targets(photo, name=template)


def test_an_empty_suffix_never_replaces_the_image(srcli: Command, model: Path, photo: Path, tmp_path: Path) -> None:
    outcome = srcli("upscale", photo, "-m", model, "--name", "{stem}.{ext}", "-o", tmp_path / "out")
    assert outcome.stdout == f"{tmp_path / 'out' / 'photo.png'}\n"
    before = photo.read_bytes()
    refused = srcli("upscale", photo, "-m", model, "--name", "{stem}.{ext}", "--overwrite")
    assert refused.exit_code == 1
    assert "would be replaced by its own result" in refused.stderr
    assert photo.read_bytes() == before


def test_a_folder_counts_what_it_leaves_out(srcli: Command, model: Path, photo: Path) -> None:
    folder = photo.parent / "album"
    folder.mkdir()
    for name in ("a.cr2", "b.CR2", "notes.txt", "photo", ".hidden.cr2"):
        (folder / name).touch()
    photo.rename(folder / "photo.png")
    outcome = srcli("upscale", folder, "-m", model)
    assert outcome.exit_code == 0
    assert f"Left out 4 files in {folder} by extension: 2 .cr2, 1 " in outcome.stderr


def test_a_file_that_is_not_an_image_is_called_that(srcli: Command, model: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    outcome = srcli("upscale", tmp_path / "notes.txt", "-m", model)
    assert outcome.exit_code == 1
    assert f"{tmp_path / 'notes.txt'} is not an image, or in a format that srcli does not read" in outcome.stderr


def test_formats_are_understood_by_all_their_names(srcli: Command, model: Path, photo: Path, tmp_path: Path) -> None:
    for word, extension in (("jpeg", "jpg"), ("JPG", "jpg"), (".tiff", "tif"), ("jxl", "jxl")):
        outcome = srcli("upscale", photo, "-m", model, "--format", word, "-o", tmp_path / word.lower())
        assert outcome.stdout == f"{tmp_path / word.lower() / f'photo_x2.{extension}'}\n"


@pytest.mark.parametrize(
    ("ending", "words", "smaller"),
    [
        ("jpg", ("-q", "50"), True),
        ("webp", ("-q", "50"), True),
        ("avif", ("-q", "50"), True),
        ("jxl", ("-q", "50"), True),
        ("webp", ("--lossless",), False),
        ("avif", ("--lossless",), False),
        ("jxl", ("--lossless",), False),
        ("png", ("--png-compression", "0"), False),
        ("png", ("--bit-depth", "16"), False),
    ],
)
def test_options_change_the_file(
    srcli: Command, model: Path, photo: Path, tmp_path: Path, ending: str, words: tuple[str, ...], smaller: bool
) -> None:
    usual, other = (tmp_path / f"{name}.{ending}" for name in ("usual", "other"))
    assert srcli("upscale", photo, "-m", model, "-o", usual).exit_code == 0
    assert srcli("upscale", photo, "-m", model, "-o", other, *words).exit_code == 0
    assert (other.stat().st_size < usual.stat().st_size) == smaller
    if words == ("--lossless",):
        from srcli.io.read import read_image

        assert srcli("upscale", photo, "-m", model, "-o", tmp_path / "exact.png").exit_code == 0
        np.testing.assert_array_equal(read_image(other).pixels, read_image(tmp_path / "exact.png").pixels)


def test_more_bits_come_from_the_network(srcli: Command, model: Path, photo: Path, tmp_path: Path) -> None:
    import imagecodecs

    assert srcli("upscale", photo, "-m", model, "-o", tmp_path / "deep.png", "--bit-depth", 16).exit_code == 0
    assert srcli("upscale", photo, "-m", model, "-o", tmp_path / "plain.png").exit_code == 0
    deep = imagecodecs.png_decode((tmp_path / "deep.png").read_bytes())
    assert deep.dtype == np.uint16
    assert (deep % 257 != 0).any()
    plain = np.asarray(Image.open(tmp_path / "plain.png"))
    assert np.abs(deep / 257 - plain).max() <= 0.5


@pytest.mark.parametrize(
    ("ending", "words", "code", "sentence"),
    [
        ("jpg", ("--lossless",), 1, "cannot be lossless, as it is a JPEG"),
        ("jpg", ("--bit-depth", "16"), 1, "cannot have 16 bits per channel; JPEG has 8"),
        ("avif", ("--bit-depth", "16"), 1, "AVIF has 8 or 10 or 12"),
        ("png", ("--bit-depth", "9"), 2, "--bit-depth must be 8, 10, 12 or 16"),
        ("png", ("-q", "101"), 2, "--output-quality must be in 1..100"),
        ("png", ("--png-compression", "10"), 2, "--png-compression must be in 0..9"),
        ("webp", ("--lossless", "-q", "90"), 2, "--lossless and --output-quality exclude each other"),
    ],
)
def test_options_that_a_format_does_not_have_are_refused(
    srcli: Command, model: Path, photo: Path, tmp_path: Path, ending: str, words: tuple[str, ...], code: int, sentence: str
) -> None:
    outcome = srcli("upscale", photo, "-m", model, "-o", tmp_path / f"sr.{ending}", *words)
    assert outcome.exit_code == code
    assert sentence in outcome.stderr
    assert not (tmp_path / f"sr.{ending}").exists()


def test_the_old_name_of_effort_still_works(srcli: Command, photo: Path) -> None:
    outcome = srcli("upscale", photo, "--quality", "fast", "--dry-run", "--json")
    assert "tiny-x4:int8" in outcome.stdout
    assert "--quality is now called --effort" in outcome.stderr
