"""Colors of files that are not plain sRGB. Reference values come from Pillow, imagecodecs and tifffile, or from standards."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image, ImageCms, ImageOps

from srcli.errors import SrcliError
from srcli.io import image as images
from srcli.io.cicp import CICP
from srcli.io.heif_boxes import nclx_of
from srcli.io.png_chunks import SIGNATURE, color_of_png
from srcli.io.read import open_image, read_exact_srgb, read_image, read_srgb
from srcli.io.write import write_image
from tests.conftest import CommandResult

CASES = Path(__file__).parent / "cases"
ENDINGS = (".png", ".jpg", ".webp", ".tif", ".avif")
D65 = [0.3127, 0.329, 1.0]
P3_PRIMARIES = [0.68, 0.32, 0.265, 0.69, 0.15, 0.06]

Pixels = Callable[..., np.ndarray]


def png_with(chunks: dict[bytes, bytes], pixels: np.ndarray) -> bytes:
    """A PNG with these chunks after its header."""
    plain = imagecodecs.png_encode(np.ascontiguousarray(pixels))
    inserted = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks.items()
    )
    place = len(SIGNATURE) + 25
    return bytes(plain[:place] + inserted + plain[place:])


def gama(exponent: float) -> bytes:
    return struct.pack(">I", round(exponent * 100_000))


def chrm(primaries: list[float]) -> bytes:
    return struct.pack(">8I", *(round(part * 100_000) for part in (*D65[:2], *primaries)))


def in_srgb(pixels: np.ndarray, profile: bytes) -> np.ndarray:
    """Converted by Pillow."""
    file = Image.fromarray(pixels)
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    return np.asarray(ImageCms.profileToProfile(file, source, ImageCms.createProfile("sRGB"), intent, outputMode="RGB"))


def assert_close(actual: np.ndarray, expected: np.ndarray, most: float = 1) -> None:
    assert np.abs(actual.astype(float) - expected.astype(float)).max() <= most


def test_png_gamma_and_chromaticities_are_converted_as_by_little_cms(tmp_path: Path, pixels: Pixels) -> None:
    small = pixels(16, 24)
    path = tmp_path / "described.png"
    for gamma, primaries in ((1.0, None), (1 / 1.8, None), (1 / 2.2, P3_PRIMARIES), (1.0, P3_PRIMARIES)):
        path.write_bytes(png_with({b"gAMA": gama(gamma)} | ({b"cHRM": chrm(primaries)} if primaries else {}), small))
        xy = primaries or [0.64, 0.33, 0.3, 0.6, 0.15, 0.06]
        profile = imagecodecs.cms_profile("rgb", whitepoint=D65, primaries=xy, gamma=1 / gamma)
        assert np.abs(in_srgb(small, profile).astype(int) - small).max() > 8
        assert_close(read_srgb(path), in_srgb(small, profile))


@pytest.mark.parametrize("chunks", [{b"gAMA": gama(0.45455)}, {b"sRGB": b"\0", b"gAMA": gama(1)}, {b"gAMA": gama(0)}])
def test_a_png_that_is_srgb_keeps_its_values(tmp_path: Path, pixels: Pixels, chunks: dict[bytes, bytes]) -> None:
    path = tmp_path / "plain.png"
    path.write_bytes(png_with(chunks, pixels(16, 24)))
    np.testing.assert_array_equal(read_srgb(path), pixels(16, 24))
    assert not [name for name, _, _ in read_image(path).metadata if name == "icc-profile-data"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_described_color_stays_the_same_in_every_format(tmp_path: Path, pixels: Pixels, ending: str) -> None:
    path, target = tmp_path / "described.png", tmp_path / f"result{ending}"
    descriptions = {"linear": {b"gAMA": gama(1.0)}, "p3": {b"cICP": bytes([12, 13, 0, 1])}}
    for chunks in descriptions.values():
        path.write_bytes(png_with(chunks, pixels(16, 24)))
        assert write_image(read_image(path), target, overwrite=True) == []
        with Image.open(target) as file:
            seen = in_srgb(np.asarray(file.convert("RGB")), file.info["icc_profile"])
        if ending in (".png", ".tif"):
            assert_close(seen, read_srgb(path))
        assert_close(seen.mean((0, 1)), read_srgb(path).mean((0, 1)))


def test_code_points_take_precedence_over_a_profile(tmp_path: Path, pixels: Pixels) -> None:
    p3 = pyvips.Image.profile_load("p3")
    chunks = {b"cICP": bytes([1, 13, 0, 1]), b"iCCP": b"p3\0\0" + zlib.compress(p3)}
    (tmp_path / "both.png").write_bytes(png_with(chunks, pixels(16, 24)))
    np.testing.assert_array_equal(read_srgb(tmp_path / "both.png"), pixels(16, 24))


@pytest.mark.parametrize(("primaries", "xy"), [(12, P3_PRIMARIES), (9, [0.708, 0.292, 0.17, 0.797, 0.131, 0.046])])
def test_avif_primaries_are_converted(tmp_path: Path, pixels: Pixels, primaries: int, xy: list[float]) -> None:
    path = tmp_path / "wide.avif"
    path.write_bytes(imagecodecs.avif_encode(pixels(16, 24), level=100, primaries=primaries, transfer=8, matrix=0))
    linear = imagecodecs.cms_profile("rgb", whitepoint=D65, primaries=xy, gamma=1.0)
    assert_close(read_srgb(path), in_srgb(pixels(16, 24), linear))


def pq(light: float) -> float:
    """The PQ signal of a luminance in cd/m² (SMPTE ST 2084)."""
    power = (light / 10_000) ** 0.1593017578125
    return float(((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375)


@pytest.mark.parametrize(("transfer", "signal"), [(16, pq), (18, lambda light: 0.75 if light == 203 else 1.0)])
def test_white_of_hdr_is_white_in_srgb(tmp_path: Path, transfer: int, signal: Callable[[float], float]) -> None:
    """203 cd/m², which is 58 % of PQ and 75 % of HLG (ITU-R BT.2408), and what is brighter."""
    values = [signal(203) * 65_535, signal(1000) * 65_535]
    gray = np.repeat(np.rint(values).astype(np.uint16)[None, :, None], 3, axis=2)
    (tmp_path / "hdr.png").write_bytes(png_with({b"cICP": bytes([9, transfer, 0, 1])}, gray))
    assert_close(read_srgb(tmp_path / "hdr.png"), np.full((1, 2, 3), 255))


@pytest.mark.parametrize("ending", ENDINGS)
def test_hdr_reads_the_same_after_upscaling(srcli: Callable[..., CommandResult], tmp_path: Path, ending: str) -> None:
    """The mean of this image is 131, 97, 64 in sRGB."""
    target = tmp_path / f"result{ending}"
    outcome = srcli("upscale", CASES / "pq.avif", "-o", target, "--scale", 2, "--device", "cpu")
    assert outcome.exit_code == 0
    assert_close(read_srgb(target).mean((0, 1)), np.array([131, 97, 64]))
    described = ending in (".png", ".avif")
    assert ("HDR (converted to sRGB" in outcome.stderr) == (not described)
    if described:
        with target.open("rb") as file:
            found = tuple(color_of_png(file)[b"cICP"]) if ending == ".png" else (*nclx_of(file), 0, 1)  # type: ignore[misc]
        assert found == (9, 16, 0, 1)
        values = imagecodecs.avif_decode((CASES / "pq.avif").read_bytes()).astype(float) / 1023
        seen = imagecodecs.imread(target).astype(float)
        assert np.abs(seen.mean((0, 1)) / (65_535 if ending == ".png" else 4095) - values.mean((0, 1))).max() < 1 / 255


def test_hdr_that_a_profile_describes_by_code_points_is_hdr(tmp_path: Path) -> None:
    """As libjxl describes PQ in its profile; the file is of cjxl."""
    pytest.importorskip("pillow_jxl")
    file = open_image(CASES / "pq.jxl")
    assert {name: value for name, _, value in file.metadata}[CICP] == bytes([9, 16, 0, 1])
    values = file.read(file.height)
    (tmp_path / "hdr.png").write_bytes(png_with({b"cICP": bytes([9, 16, 0, 1])}, values))
    np.testing.assert_array_equal(read_srgb(CASES / "pq.jxl"), read_srgb(tmp_path / "hdr.png"))
    assert write_image(images.Image(values, file.metadata), tmp_path / "result.avif") == ["16 bits (reduced to 12)"]
    with (tmp_path / "result.avif").open("rb") as result:
        assert nclx_of(result) == (9, 16)


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_avif_is_read_as_libavif_reads_it(tmp_path: Path, pixels: Pixels, orientation: int) -> None:
    """libheif repeats colors that are stored for every other pixel, and ignores premultiplied alpha."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(pixels(64, 96, 4))
    image.save(tmp_path / "a.avif", subsampling="4:2:0", alpha_premultiplied=True, exif=exif, quality=90)
    with Image.open(tmp_path / "a.avif") as file:
        expected = np.asarray(ImageOps.exif_transpose(file))
    np.testing.assert_array_equal(read_image(tmp_path / "a.avif").pixels, expected)


def test_ycbcr_tiff_is_converted(tmp_path: Path, pixels: Pixels) -> None:
    assert_close(read_srgb(CASES / "ycbcr.tif").mean((0, 1)), np.array([129.2, 96.5, 62.5]), 0.1)
    small = Image.fromarray(pixels(16, 24))
    luma = np.asarray(small.convert("YCbCr"))
    for compression in (None, "zlib", "lzw"):
        tifffile.imwrite(tmp_path / "ycc.tif", luma, photometric="ycbcr", subsampling=(1, 1), compression=compression)
        assert_close(read_image(tmp_path / "ycc.tif").pixels, np.asarray(small), 4)
    small.save(tmp_path / "jpeg.tif", compression="jpeg", quality=100)
    assert_close(read_image(tmp_path / "jpeg.tif").pixels, np.asarray(Image.open(tmp_path / "jpeg.tif")))


def test_cielab_tiff_is_converted(tmp_path: Path, pixels: Pixels) -> None:
    assert_close(read_srgb(CASES / "lab8.tif").mean((0, 1)), np.array([130.8, 96.9, 64.4]), 0.5)
    small = pyvips.Image.new_from_array(pixels(16, 24)).copy(interpretation="srgb")
    small.colourspace("labs").tiffsave(str(tmp_path / "deep.tif"))
    assert_close(read_srgb(tmp_path / "deep.tif"), pixels(16, 24))
    tifffile.imwrite(tmp_path / "icclab.tif", pixels(16, 24), photometric="icclab", metadata=None)
    with pytest.raises(SrcliError, match="CIELAB, which srcli does not read"):
        read_image(tmp_path / "icclab.tif")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_float_tiff_keeps_its_values_as_16_bits(tmp_path: Path, pixels: Pixels, channels: int) -> None:
    values = pixels(16, 24, channels, np.uint16) / 65_535
    kind = "rgb" if channels > 1 else "minisblack"
    extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    values = values if channels > 1 else values[..., 0]
    tifffile.imwrite(tmp_path / "float.tif", values.astype(np.float32), photometric=kind, metadata=None, **extra)
    file = open_image(tmp_path / "float.tif")
    np.testing.assert_array_equal(file.read(16), np.rint(values.reshape(16, 24, channels) * 65_535))
    assert file.lost == ("floats (stored as 16 bits)",)
    tifffile.imwrite(tmp_path / "bright.tif", (values * 3).astype(np.float32), photometric=kind, metadata=None, **extra)
    with pytest.raises(SrcliError, match="only 0 to 1 is supported"):
        open_image(tmp_path / "bright.tif")


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_gray_profiles_are_converted_exactly(tmp_path: Path, channels: int, dtype: type) -> None:
    """All values of a linear image, with and without alpha."""
    top = np.iinfo(dtype).max
    light = np.arange(top + 1).reshape(-1, 256)
    alpha = np.full_like(light, top // 2)
    pixels = np.dstack([light, alpha][:channels]).astype(dtype)
    profile = imagecodecs.cms_profile("gray", whitepoint=D65, gamma=1.0)
    write_image(images.Image(pixels, (("icc-profile-data", pyvips.GValue.blob_type, profile),)), tmp_path / "linear.png")
    seen = read_exact_srgb(tmp_path / "linear.png")
    unit = light / top
    expected = np.where(unit <= 0.0031308, 12.92 * unit, 1.055 * unit ** (1 / 2.4) - 0.055) * top
    assert_close(seen[..., 0], expected)
    if channels == 2:
        np.testing.assert_array_equal(seen[..., 3], alpha)


P3 = pyvips.Image.profile_load("p3")
UNUSABLE = {
    "truncated": P3[:300],
    "gray": imagecodecs.cms_profile("gray", whitepoint=D65, gamma=2.2),
    "cmyk": pyvips.Image.profile_load("cmyk"),
    "noise": b"no profile" * 50,
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", UNUSABLE)
def test_an_unusable_profile_is_dropped(tmp_path: Path, pixels: Pixels, kind: str, ending: str) -> None:
    Image.fromarray(pixels(16, 24)).save(tmp_path / "lr.jpg", icc_profile=UNUSABLE[kind])
    file = open_image(tmp_path / "lr.jpg")
    assert file.lost == ("the color profile (damaged, or for another kind of image)",)
    target = tmp_path / f"sr{ending}"
    assert write_image(images.Image(file.read(16), file.metadata), target) == []
    with Image.open(target) as written:
        assert "icc_profile" not in written.info
    np.testing.assert_array_equal(read_exact_srgb(tmp_path / "lr.jpg"), np.asarray(Image.open(tmp_path / "lr.jpg")))


def test_a_dropped_profile_is_reported(srcli: Callable[..., CommandResult], tmp_path: Path) -> None:
    for target in (tmp_path / "sr.jpg", tmp_path / "sr.png"):
        outcome = srcli("upscale", CASES / "truncated_icc.jpg", "-o", target, "--scale", 2, "--device", "cpu")
        assert outcome.exit_code == 0
        assert f"{target} does not keep everything: the color profile (damaged" in outcome.stderr
