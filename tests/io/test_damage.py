"""Damage that matters, and damage that does not."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from srcli.errors import SrcliError
from srcli.io.heif_boxes import nclx_of
from srcli.io.read import open_image, read_srgb
from tests.conftest import CommandResult

CASES = Path(__file__).parent / "cases"
HEIGHT, WIDTH = 160, 120


def encoded(kind: str, **options: object) -> bytes:
    """An image of noise in blocks, whose rows take about the same number of bytes each."""
    blocks = np.random.default_rng(0).integers(0, 255, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.kron(blocks, np.ones((4, 4, 1), np.uint8))).save(file, kind, **options)
    return file.getvalue()


def test_a_warning_about_the_header_is_no_damage() -> None:
    file = open_image(CASES / "harmless_sos.jpg", find_damage=True)
    pixels = file.read(file.height)
    assert file.damage is None
    np.testing.assert_array_equal(pixels, open_image(CASES / "harmless_sos_same_pixels.jpg").read(file.height))


def test_bytes_after_the_pixels_are_no_damage(tmp_path: Path) -> None:
    whole = encoded("JPEG")
    for padding in (bytes(40), b"\x01\x02\x03" * 10):
        (tmp_path / "padded.jpg").write_bytes(whole[:-2] + padding + whole[-2:])
        file = open_image(tmp_path / "padded.jpg", find_damage=True)
        np.testing.assert_array_equal(file.read(HEIGHT), np.asarray(Image.open(io.BytesIO(whole))))
        assert file.damage is None


def test_a_jpeg_without_its_end_marker_is_whole(srcli: Callable[..., CommandResult], tmp_path: Path) -> None:
    whole = encoded("JPEG")
    (tmp_path / "endless.jpg").write_bytes(whole[:-2])
    file = open_image(tmp_path / "endless.jpg")
    np.testing.assert_array_equal(file.read(HEIGHT), np.asarray(Image.open(io.BytesIO(whole))))
    assert file.damage == "its end is missing, but no row"
    assert read_srgb(tmp_path / "endless.jpg").shape == (HEIGHT, WIDTH, 3)
    outcome = srcli("upscale", tmp_path / "endless.jpg", "-o", tmp_path / "sr.jpg", "--scale", 2, "--device", "cpu")
    assert outcome.exit_code == 0
    assert "endless.jpg is damaged (its end is missing, but no row)" in outcome.stderr


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("PNG", {"compress_level": 1}), ("TIFF", {})])
def test_a_file_that_ends_early_names_its_missing_rows(tmp_path: Path, kind: str, options: dict[str, object]) -> None:
    whole = encoded(kind, **options)
    path = tmp_path / f"short.{kind.lower()}"
    path.write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(SrcliError, match=r"rows \d+ to 160 are missing. .* use `allow_truncated`"):
        open_image(path, find_damage=True).read(HEIGHT)
    file = open_image(path, find_damage=True, allow_truncated=True)
    pixels = np.concatenate([file.read(50), file.read(HEIGHT)])
    assert file.damage is not None
    first = int(file.damage.split()[1])
    assert 70 < first < 110
    expected = np.asarray(Image.open(io.BytesIO(whole)))
    np.testing.assert_array_equal(pixels[: first - 1], expected[: first - 1])
    assert len(pixels) == HEIGHT


def test_a_progressive_jpeg_that_ends_early_has_no_complete_row(tmp_path: Path) -> None:
    whole = encoded("JPEG", progressive=True)
    (tmp_path / "short.jpg").write_bytes(whole[: len(whole) * 6 // 10])
    file = open_image(tmp_path / "short.jpg", find_damage=True, allow_truncated=True)
    assert file.read(HEIGHT).shape == (HEIGHT, WIDTH, 3)
    assert file.damage == "none of its 160 rows is complete"


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_a_format_without_partial_images_stays_an_error(tmp_path: Path, kind: str) -> None:
    whole = encoded(kind)
    (tmp_path / "short").write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(SrcliError, match="cannot be read as an image"):
        open_image(tmp_path / "short", allow_truncated=True).read(HEIGHT)


def test_truncated_files_are_upscaled_only_if_asked(srcli: Callable[..., CommandResult], tmp_path: Path) -> None:
    whole = encoded("JPEG", exif=turned())
    (tmp_path / "short.jpg").write_bytes(whole[: len(whole) * 6 // 10])
    words = ("upscale", tmp_path / "short.jpg", "-o", tmp_path / "sr.png", "--scale", 2, "--device", "cpu")
    refused = srcli(*words)
    assert refused.exit_code == 1
    assert "--allow-truncated" in refused.stderr
    outcome = srcli(*words, "--allow-truncated")
    assert outcome.exit_code == 0
    assert "to 160 are missing, counted before the image is turned upright" in outcome.stderr
    with Image.open(tmp_path / "sr.png") as file:
        assert file.size == (HEIGHT * 2, WIDTH * 2)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize(
    "boxes",
    [
        struct.pack(">I4s", 4, b"meta"),  # smaller than its head
        struct.pack(">I4sQ", 1, b"free", 0),  # of no length, again and again
        struct.pack(">I4s", 0, b"free") + bytes(8),
        struct.pack(">I4sQ", 1, b"free", 2**63),
        struct.pack(">I4sI", 100, b"meta", 0) + struct.pack(">I4s", 0, b"iprp"),
        struct.pack(">I4sI", 100, b"meta", 0) + struct.pack(">I4s", 3, b"iprp") + bytes(40),
    ],
)
def test_damaged_boxes_of_avif_describe_no_color(boxes: bytes) -> None:
    assert nclx_of(io.BytesIO(struct.pack(">I4s4s", 12, b"ftyp", b"avif") + boxes)) is None
