"""Reading and writing images, checked with Pillow."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pyvips
from PIL import Image as PILImage
from PIL import ImageCms, ImageOps

from srcli.errors import SrcliError
from srcli.io.discover import find_images, image_like
from srcli.io.image import Image
from srcli.io.load import reason
from srcli.io.read import read_image, read_srgb
from srcli.io.write import check_target, write_image

Pixels = Callable[..., np.ndarray]


@pytest.mark.parametrize("ending", [".png", ".tif", ".tiff"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lossless_formats_preserve_every_pixel(tmp_path: Path, pixels: Pixels, ending: str, channels: int, dtype: type) -> None:
    original = pixels(17, 23, channels, dtype)
    path = tmp_path / f"image{ending}"
    assert write_image(Image(original), path) == []
    again = read_image(path)
    assert again.pixels.dtype == dtype
    np.testing.assert_array_equal(again.pixels, original)


@pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".webp", ".avif"])
def test_lossy_formats_stay_close_to_the_image(tmp_path: Path, pixels: Pixels, ending: str) -> None:
    original = pixels(32, 48)
    path = tmp_path / f"image{ending}"
    write_image(Image(original), path)
    with PILImage.open(path) as file:
        again = np.array(file.convert("RGB"))
    assert np.abs(again.astype(float) - original).mean() < 3


def test_avif_keeps_twelve_of_sixteen_bits(tmp_path: Path, pixels: Pixels) -> None:
    original = pixels(32, 48, dtype=np.uint16)
    write_image(Image(original), tmp_path / "deep.avif")
    again = read_image(tmp_path / "deep.avif")
    assert again.pixels.dtype == np.uint16
    assert np.abs(again.pixels.astype(float) - original).mean() < 3 * 257


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photo_is_read_upright(tmp_path: Path, pixels: Pixels, orientation: int) -> None:
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    PILImage.fromarray(pixels(10, 14)).save(path, exif=exif)
    with PILImage.open(path) as file:
        upright = np.array(ImageOps.exif_transpose(file))
    image = read_image(path)
    np.testing.assert_array_equal(image.pixels, upright)
    write_image(image, tmp_path / "upright.png")
    with PILImage.open(tmp_path / "upright.png") as file:
        assert file.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tif", ".avif"])
def test_profile_and_exif_are_preserved(tmp_path: Path, pixels: Pixels, ending: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = PILImage.Exif()
    exif[0x010F] = "A maker"
    source, target = tmp_path / "source.jpg", tmp_path / f"target{ending}"
    PILImage.fromarray(pixels(16, 16)).save(source, icc_profile=profile, exif=exif, dpi=(300, 300))
    lost = write_image(read_image(source), target)
    with PILImage.open(target) as file:
        assert file.info["icc_profile"] == profile
        assert lost == []
        assert file.getexif()[0x010F].rstrip("\0") == "A maker"


def test_palette_one_bit_and_cmyk_are_converted(tmp_path: Path, pixels: Pixels) -> None:
    photo = PILImage.fromarray(pixels(16, 20))
    photo.quantize(64).save(tmp_path / "palette.png")
    photo.convert("1").save(tmp_path / "bits.png")
    photo.convert("CMYK").save(tmp_path / "cmyk.tif")
    with PILImage.open(tmp_path / "palette.png") as file:
        np.testing.assert_array_equal(read_image(tmp_path / "palette.png").pixels, np.array(file.convert("RGB")))
    bits = read_image(tmp_path / "bits.png").pixels
    assert bits.shape == (16, 20, 1)
    assert set(np.unique(bits)) == {0, 255}
    assert read_image(tmp_path / "cmyk.tif").pixels.shape == (16, 20, 3)


def test_transparency_in_jpeg_becomes_white_and_is_reported(tmp_path: Path) -> None:
    clear = np.zeros((8, 8, 4), dtype=np.uint8)
    assert write_image(Image(clear), tmp_path / "clear.jpg") == ["transparency (replaced by white)"]
    assert read_image(tmp_path / "clear.jpg").pixels.min() > 250


def test_sixteen_bits_in_jpeg_become_eight_and_that_is_reported(tmp_path: Path) -> None:
    white = np.full((8, 8, 3), 65_535, dtype=np.uint16)
    assert write_image(Image(white), tmp_path / "white.jpg") == ["16 bits (reduced to 8)"]
    assert read_image(tmp_path / "white.jpg").pixels.min() == 255


def test_for_training_everything_becomes_eight_bit_srgb(tmp_path: Path, pixels: Pixels) -> None:
    gray = pixels(12, 12, 1)
    write_image(Image(gray), tmp_path / "gray.png")
    np.testing.assert_array_equal(read_srgb(tmp_path / "gray.png"), np.repeat(gray, 3, axis=2))
    write_image(Image(np.zeros((4, 4, 4), dtype=np.uint16)), tmp_path / "clear.png")
    np.testing.assert_array_equal(read_srgb(tmp_path / "clear.png"), np.full((4, 4, 3), 255))


def test_another_profile_is_converted_to_srgb(tmp_path: Path) -> None:
    wide = pyvips.Image.profile_load("p3")
    p3 = ImageCms.ImageCmsProfile(io.BytesIO(wide))
    colors = PILImage.fromarray(np.array([[(180, 60, 60), (60, 160, 70), (90, 90, 200), (128, 128, 128)]], dtype=np.uint8))
    colors.save(tmp_path / "p3.png", icc_profile=wide)
    expected = ImageCms.profileToProfile(
        colors, p3, ImageCms.createProfile("sRGB"), renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC
    )
    assert expected is not None
    difference = np.abs(read_srgb(tmp_path / "p3.png").astype(int) - np.array(expected))
    assert difference.max() <= 2
    assert np.abs(np.array(expected).astype(int) - np.array(colors)).max() > 10


def broken(folder: Path, pixels: Pixels) -> dict[str, Path]:
    """A file of each kind that cannot be read as an image."""
    whole = folder / "whole.jpg"
    write_image(Image(pixels(64, 64)), whole)
    files = {name: folder / name for name in ("text.png", "empty.jpg", "cut.jpg", "folder.png", "missing.png", "frames.gif")}
    files["text.png"].write_text("no image")
    files["empty.jpg"].write_bytes(b"")
    files["cut.jpg"].write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    files["folder.png"].mkdir()
    frames = [PILImage.new("RGB", (4, 4), (shade, 0, 0)) for shade in (0, 100, 200)]
    frames[0].save(files["frames.gif"], save_all=True, append_images=frames[1:])
    whole.unlink()
    return files


@pytest.mark.parametrize("read", [read_image, read_srgb])
def test_a_file_that_is_not_an_image_is_named_in_the_error(
    tmp_path: Path, pixels: Pixels, read: Callable[[Path], object]
) -> None:
    reasons = {
        "text.png": "is not an image, or in a format that srcli does not read",
        "empty.jpg": "is empty",
        "cut.jpg": "ends early",
        "folder.png": "is a folder",
        "missing.png": "No such file",
        "frames.gif": "has 3 frames",
    }
    for name, path in broken(tmp_path, pixels).items():
        with pytest.raises(SrcliError, match=reasons[name]) as error:
            read(path)
        assert str(path) in str(error.value)


def test_an_existing_file_is_replaced_only_with_overwrite(tmp_path: Path, pixels: Pixels) -> None:
    path = tmp_path / "there.png"
    path.write_text("precious")
    with pytest.raises(SrcliError, match="already exists"):
        write_image(Image(pixels(4, 4)), path)
    assert path.read_text() == "precious"
    write_image(Image(pixels(4, 4)), path, overwrite=True)
    assert read_image(path).width == 4
    assert [file.name for file in tmp_path.iterdir()] == ["there.png"]


def test_no_incomplete_file_is_left(tmp_path: Path) -> None:
    too_wide = np.zeros((1, 70_000, 3), dtype=np.uint8)
    with pytest.raises(SrcliError, match="Cannot write"):
        write_image(Image(too_wide), tmp_path / "wide.jpg")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SrcliError, match=r"70000x1 pixels; JPEG supports 65535 per side"):
        check_target(tmp_path / "wide.jpg", 70_000, 1)


def test_images_are_found_in_order_without_hidden_ones(tmp_path: Path, photos: Path) -> None:
    (photos / ".hidden.png").write_bytes(b"")
    (photos / "notes.txt").write_text("no image")
    assert [path.name for path in find_images(photos)] == ["three.png", "one.png", "two.png"]
    assert [path.name for path in sorted(image_like(photos, recursive=False, on_error=pytest.fail))] == ["one.png", "two.png"]
    (tmp_path / "nothing").mkdir()
    with pytest.raises(SrcliError, match="contains no image"):
        find_images(tmp_path / "nothing")


def test_errors_of_other_threads_are_not_attributed_to_this_image() -> None:
    class Said:
        def __init__(self, *lines: str) -> None:
            self.detail = "\n".join(lines)

    said = Said("tiff2vips: out of order read", "a/two.avif: bad seek to 1062", "")
    assert reason(said, "a/one.tif") == "tiff2vips: out of order read"  # type: ignore[arg-type]
    assert reason(said, "a/two.avif") == "a/two.avif: bad seek to 1062"  # type: ignore[arg-type]
    assert reason(Said("b.PNG: gone"), "a.png") == "unknown format"  # type: ignore[arg-type]
