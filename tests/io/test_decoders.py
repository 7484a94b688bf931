"""Formats that Pillow, libheif and libjxl decode. Other programs write the files."""

import sys
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import pyvips
from PIL import Image

from srcli.errors import SrcliError
from srcli.io.formats import SaveOptions
from srcli.io.image import Image as Picture
from srcli.io.jxl import Header, header_of_jxl
from srcli.io.read import open_image, read_exact_srgb, read_image, read_srgb
from srcli.io.write import write_image

Pixels = Callable[..., np.ndarray]
P3 = pyvips.Image.profile_load("p3")


@pytest.mark.parametrize("name", ["rgb.bmp", "gray.bmp", "palette.bmp", "rgb.ppm", "gray.pgm", "bits.pbm", "rgb.gif"])
def test_bmp_pnm_and_gif_are_read(tmp_path: Path, pixels: Pixels, name: str) -> None:
    image = Image.fromarray(pixels(16, 24))
    kinds = {"gray": image.convert("L"), "bits": image.convert("1"), "palette": image.quantize(16)}
    image = kinds.get(name.split(".")[0], image)
    image.save(tmp_path / name)
    with Image.open(tmp_path / name) as file:
        np.testing.assert_array_equal(read_srgb(tmp_path / name), np.asarray(file.convert("RGB")))


@pytest.mark.parametrize(
    ("kind", "most", "channels"), [(b"P5", 65_535, 1), (b"P6", 65_535, 3), (b"P6", 1023, 3), (b"P6", 255, 3)]
)
def test_binary_pnm_keeps_its_bits(tmp_path: Path, kind: bytes, most: int, channels: int) -> None:
    values = np.random.default_rng(0).integers(0, most + 1, (16, 24, channels))
    stored = values.astype(">u2" if most > 255 else np.uint8)
    (tmp_path / "deep.pnm").write_bytes(b"%s\n# a comment\n24 16\n%d\n" % (kind, most) + stored.tobytes())
    read = read_image(tmp_path / "deep.pnm").pixels
    assert read.dtype == (np.uint16 if most > 255 else np.uint8)
    np.testing.assert_array_equal(read, np.rint(values * (np.iinfo(read.dtype).max / most)))


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("channels", [3, 4])
def test_heic_is_read(tmp_path: Path, pixels: Pixels, depth: int, channels: int) -> None:
    heif = pytest.importorskip("pillow_heif")
    values = pixels(64, 96, channels, np.uint16)
    mode = "RGB" if channels == 3 else "RGBA"
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif[0x0112] = 6
    data, name = (values >> 8).astype(np.uint8), mode
    if depth == 10:
        data, name = values, f"{mode};16"
    file = heif.from_bytes(mode=name, size=(96, 64), data=data.tobytes())
    heif.options.SAVE_HDR_TO_12_BIT = False
    file.save(tmp_path / "photo.heic", quality=-1, exif=exif.tobytes(), icc_profile=P3, chroma=444)
    read = open_image(tmp_path / "photo.heic")
    seen = read.read(96)
    assert read.dtype == (np.uint8 if depth == 8 else np.uint16)
    known = np.asarray(heif.open_heif(tmp_path / "photo.heic", convert_hdr_to_8bit=False))
    assert seen.shape == known.shape
    np.testing.assert_array_equal(seen, known)
    fields = {name: value for name, _, value in read.metadata}
    assert fields["icc-profile-data"] == P3
    assert b"Maker" in fields["exif-data"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_jpeg_xl_is_read_and_written_without_loss(tmp_path: Path, pixels: Pixels, channels: int, dtype: type) -> None:
    pytest.importorskip("pillow_jxl")
    values = pixels(16, 24, channels, dtype)
    plain = values if channels > 1 else values[..., 0]
    (tmp_path / "lr.jxl").write_bytes(imagecodecs.jpegxl_encode(plain, lossless=True))
    np.testing.assert_array_equal(read_image(tmp_path / "lr.jxl").pixels, values)
    assert write_image(Picture(values), tmp_path / "sr.jxl", options=SaveOptions(lossless=True)) == []
    written = read_exact_srgb(tmp_path / "sr.jxl").astype(int)
    expected = np.repeat(values[..., :1], 3, axis=2) if channels < 3 else values[..., :3]
    # 16 bits are linear, so dark ones are rounded
    assert np.abs(written[..., :3] - expected).max() <= (0 if dtype == np.uint8 else 64)
    if channels in (2, 4):
        np.testing.assert_array_equal(written[..., 3], values[..., -1])


def test_the_profile_of_jpeg_xl_is_read_and_converted_when_written(tmp_path: Path, pixels: Pixels) -> None:
    pytest.importorskip("pillow_jxl")
    image = Picture(pixels(16, 24), (("icc-profile-data", pyvips.GValue.blob_type, P3),))
    lost = write_image(image, tmp_path / "sr.jxl", options=SaveOptions(lossless=True))
    assert lost == ["color profile (converted to sRGB)"]
    write_image(image, tmp_path / "sr.png")
    assert np.abs(read_srgb(tmp_path / "sr.jxl").astype(int) - read_srgb(tmp_path / "sr.png")).max() <= 1


@pytest.mark.parametrize("container", [False, True])
@pytest.mark.parametrize("size", [(64, 96), (8, 8), (1, 1), (300, 400), (1000, 1600), (513, 2049), (9000, 16)])
def test_the_size_of_jpeg_xl_is_known_before_decoding(size: tuple[int, int], container: bool) -> None:
    data = imagecodecs.jpegxl_encode(np.zeros((*size, 3), np.uint8), usecontainer=container, effort=1)
    assert header_of_jxl(bytes(data)) == Header(*size[::-1], animated=False)


def test_too_many_pixels_are_rejected_before_decoding(tmp_path: Path) -> None:
    (tmp_path / "large.jxl").write_bytes(imagecodecs.jpegxl_encode(np.zeros((200, 300, 3), np.uint8), effort=1)[:60])
    with pytest.raises(SrcliError, match="300x200 = 60000 pixels, more than the limit of 1000"):
        open_image(tmp_path / "large.jxl", max_pixels=1000)


@pytest.mark.parametrize(
    ("module", "content", "sentence"),
    [
        ("pillow_jxl", b"\xff\x0a" + bytes(50), "Install its plugin to read it: pip install pillow-jxl-plugin"),
        ("pillow_heif", b"\0\0\0\x18ftypheic" + bytes(50), "Install pillow-heif to read it: pip install pillow-heif"),
    ],
)
def test_a_missing_library_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, content: bytes, sentence: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "photo").write_bytes(content)
    with pytest.raises(SrcliError, match=sentence):
        open_image(tmp_path / "photo")


@pytest.mark.parametrize("start", [b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n", b"\0\0\0\x18ftypheic", b"BM", b"P6\n", b"II*\0"])
def test_damaged_files_are_errors(tmp_path: Path, start: bytes) -> None:
    for rest in (b"", bytes(100), bytes(range(256))):
        (tmp_path / "damaged").write_bytes(start + rest)
        with pytest.raises(SrcliError):
            open_image(tmp_path / "damaged").read(10)


def test_frames_of_an_animated_jpeg_xl_are_read_one_at_a_time() -> None:
    """The file is of cjxl, as no library gives the delays."""
    pytest.importorskip("pillow_jxl")
    path = Path(__file__).parent / "cases" / "animated.jxl"
    with pytest.raises(SrcliError, match="has 3 frames or pages; choose one with `frame`"):
        open_image(path, all_frames=True)
    for number, red in enumerate((0, 60, 120), start=1):
        pixels = open_image(path, frame=number).read(20)
        assert pixels.shape[:2] == (20, 30)
        assert np.all(pixels[..., :3] == (red, 100, 200))
