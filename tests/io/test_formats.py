"""Files made by other programs, upscaled by the command, and read back by other programs.

Pillow, tifffile and imagecodecs write and read; colors are compared with a bicubic upscaled image of the same file.
"""

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo

from srcli.inference.backend import Backend, load_model
from srcli.io.png_chunks import texts_of_png
from tests.conftest import CommandResult

Command = Callable[..., CommandResult]
Pixels = Callable[..., np.ndarray]

HEIGHT, WIDTH, SCALE = 24, 36, 2
D65 = [0.3127, 0.329, 1.0]
ADOBE = imagecodecs.cms_profile("rgb", whitepoint=D65, primaries=[0.64, 0.33, 0.21, 0.71, 0.15, 0.06], gamma=563 / 256)
LINEAR = imagecodecs.cms_profile("rgb", whitepoint=D65, primaries=[0.64, 0.33, 0.3, 0.6, 0.15, 0.06], gamma=1.0)
LINEAR_GRAY = imagecodecs.cms_profile("gray", whitepoint=D65, gamma=1.0)
P3 = pyvips.Image.profile_load("p3")
CMYK = pyvips.Image.profile_load("cmyk")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real models, but each loaded once for all of these tests."""
    monkeypatch.setattr("srcli.inference.batch.load_model", lambda model, device: loaded(model.name, device))


@cache
def loaded(name: str, device: str) -> Backend:
    return load_model(name, device)


def by_others(path: Path) -> np.ndarray:
    """H x W x C in 0..1, read without libvips."""
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            if page.photometric.name in ("RGB", "MINISBLACK") and page.dtype in (np.uint8, np.uint16):
                pixels = page.asarray()
                if page.planarconfig == 2 and pixels.ndim == 3:
                    pixels = pixels.transpose(1, 2, 0)
                return to_unit(pixels)
    if path.suffix == ".png":
        content = path.read_bytes()
        if content[24] == 16:
            return to_unit(imagecodecs.png_decode(content))
    with Image.open(path) as file:
        mode = file.mode
        if mode == "P":
            mode = "RGBA" if "transparency" in file.info else "RGB"
        return to_unit(np.array(file.convert({"1": "L", "CMYK": "RGB", "I;16": "I;16"}.get(mode, mode))))


def to_unit(pixels: np.ndarray) -> np.ndarray:
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return pixels.astype(np.float64) / np.iinfo(pixels.dtype).max


def bicubic(image: np.ndarray) -> np.ndarray:
    planes = []
    for plane in image.transpose(2, 0, 1):
        upscaled = Image.fromarray(plane.astype(np.float32)).resize(
            (plane.shape[1] * SCALE, plane.shape[0] * SCALE), Image.Resampling.BICUBIC
        )
        planes.append(np.asarray(upscaled).astype(np.float64))
    return np.stack(planes, axis=2)


def visible(image: np.ndarray) -> np.ndarray:
    """Premultiplied if there is alpha, as invisible pixels may have any color."""
    if image.shape[2] in (2, 4):
        return np.dstack([image[..., :-1] * image[..., -1:], image[..., -1]])
    return image


def assert_same_colors(large: np.ndarray, small: np.ndarray, sharper: float = 8) -> None:
    """No shift in any channel, and close to bicubic everywhere."""
    expected = visible(bicubic(visible(small)) if small.shape[2] not in (2, 4) else small)
    if small.shape[2] in (2, 4):
        expected = bicubic(expected)
    difference = visible(large) - expected
    assert np.abs(difference.mean(axis=(0, 1))).max() < 1.5 / 255
    assert np.abs(difference).mean() < sharper / 255  # most where there is noise: of palettes, of AVIF


def upscale_file(srcli: Command, source: Path, *words: object, ending: str | None = None) -> Path:
    target = source.with_name(f"sr{ending or source.suffix}")
    outcome = srcli("upscale", source, "-o", target, "--scale", SCALE, "--device", "cpu", "--overwrite", *words)
    assert outcome.exit_code == 0, outcome.stderr
    return target


def rgb(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels(HEIGHT, WIDTH))


def save_palette_with_transparency(path: Path, pixels: Pixels) -> None:
    rgb(pixels).quantize(32).save(path, transparency=5)


def png(path: Path, pixels: np.ndarray) -> None:
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))


def tif(path: Path, pixels: np.ndarray, **options: Any) -> None:
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    kind = "rgb" if channels >= 3 else "minisblack"
    extra = {"extrasamples": ["unassalpha"]} if channels in (2, 4) else {}
    tifffile.imwrite(path, pixels, **{"photometric": kind, "metadata": None} | extra | options)


# name, who writes it, channels and type that the result must have
KINDS: dict[str, tuple[Callable[[Path, Pixels], object], int, type]] = {
    "rgb.png": (lambda path, make: rgb(make).save(path), 3, np.uint8),
    "gray.png": (lambda path, make: rgb(make).convert("L").save(path), 1, np.uint8),
    "la.png": (lambda path, make: Image.fromarray(make(HEIGHT, WIDTH, 2), "LA").save(path), 2, np.uint8),
    "rgba.png": (lambda path, make: Image.fromarray(make(HEIGHT, WIDTH, 4)).save(path), 4, np.uint8),
    "bits.png": (lambda path, make: rgb(make).convert("1", dither=0).save(path), 1, np.uint8),
    "palette.png": (lambda path, make: rgb(make).quantize(64).save(path), 3, np.uint8),
    "palette-transparent.png": (save_palette_with_transparency, 4, np.uint8),
    "gray16.png": (lambda path, make: png(path, make(HEIGHT, WIDTH, 1, np.uint16)[..., 0]), 1, np.uint16),
    "la16.png": (lambda path, make: png(path, make(HEIGHT, WIDTH, 2, np.uint16)), 2, np.uint16),
    "rgb16.png": (lambda path, make: png(path, make(HEIGHT, WIDTH, 3, np.uint16)), 3, np.uint16),
    "rgba16.png": (lambda path, make: png(path, make(HEIGHT, WIDTH, 4, np.uint16)), 4, np.uint16),
    "rgb.jpg": (lambda path, make: rgb(make).save(path, quality=95), 3, np.uint8),
    "progressive.jpg": (lambda path, make: rgb(make).save(path, quality=95, progressive=True), 3, np.uint8),
    "gray.jpg": (lambda path, make: rgb(make).convert("L").save(path, quality=95), 1, np.uint8),
    "rgb.webp": (lambda path, make: rgb(make).save(path, quality=95), 3, np.uint8),
    "rgba.webp": (lambda path, make: Image.fromarray(make(HEIGHT, WIDTH, 4)).save(path, lossless=True), 4, np.uint8),
    "rgb.avif": (lambda path, make: rgb(make).save(path, quality=95), 3, np.uint8),
    "rgba.avif": (lambda path, make: Image.fromarray(make(HEIGHT, WIDTH, 4)).save(path, quality=100), 4, np.uint8),
    "rgb.tif": (lambda path, make: rgb(make).save(path), 3, np.uint8),
    "lzw.tif": (lambda path, make: rgb(make).save(path, compression="tiff_lzw"), 3, np.uint8),
    "jpeg.tif": (lambda path, make: rgb(make).save(path, compression="jpeg", quality=95), 3, np.uint8),
    "bits.tif": (lambda path, make: rgb(make).convert("1", dither=0).save(path), 1, np.uint8),
    "palette.tif": (lambda path, make: rgb(make).quantize(64).save(path), 3, np.uint8),
    "gray.tif": (lambda path, make: tif(path, make(HEIGHT, WIDTH, 1)[..., 0]), 1, np.uint8),
    "la.tif": (lambda path, make: tif(path, make(HEIGHT, WIDTH, 2), planarconfig="contig"), 2, np.uint8),
    "rgba.tif": (lambda path, make: tif(path, make(HEIGHT, WIDTH, 4)), 4, np.uint8),
    "gray16.tif": (lambda path, make: tif(path, make(HEIGHT, WIDTH, 1, np.uint16)[..., 0]), 1, np.uint16),
    "rgb16.tif": (lambda path, make: tif(path, make(HEIGHT, WIDTH, 3, np.uint16)), 3, np.uint16),
    "rgba16.tif": (lambda path, make: tif(path, make(HEIGHT, WIDTH, 4, np.uint16)), 4, np.uint16),
    "big-endian.tif": (lambda path, make: tif(path, make(HEIGHT, WIDTH, 3, np.uint16), byteorder=">"), 3, np.uint16),
    "bigtiff.tif": (lambda path, make: tif(path, make(HEIGHT, WIDTH), bigtiff=True), 3, np.uint8),
    "tiled.tif": (lambda path, make: tif(path, make(HEIGHT, WIDTH), tile=(16, 16), compression="deflate"), 3, np.uint8),
    "planes.tif": (
        lambda path, make: tif(path, np.ascontiguousarray(make(HEIGHT, WIDTH).transpose(2, 0, 1)), planarconfig="separate"),
        3,
        np.uint8,
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_image_keeps_its_type(srcli: Command, pixels: Pixels, tmp_path: Path, name: str) -> None:
    write, channels, dtype = KINDS[name]
    source = tmp_path / name
    write(source, pixels)
    target = upscale_file(srcli, source)
    large = by_others(target)
    assert large.shape == (HEIGHT * SCALE, WIDTH * SCALE, channels)
    assert_same_colors(large, by_others(source), sharper=16 if "bits" in name else 8)
    with target.open("rb") as file:
        assert (b"\0\x10" if dtype is np.uint16 else b"\0\x08")[1] == file.read(25)[24] or target.suffix != ".png"
    if target.suffix == ".tif":
        assert tifffile.imread(target).dtype == dtype


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("name", ["rgb16.tif", "rgb16.png", "gray.png", "rgb.jpg", "rgb.webp", "rgb.avif", "palette.tif"])
def test_from_every_format_to_every_other(srcli: Command, pixels: Pixels, tmp_path: Path, name: str, ending: str) -> None:
    write, channels, _ = KINDS[name]
    source = tmp_path / name
    write(source, pixels)
    large = by_others(upscale_file(srcli, source, ending=ending))
    small = by_others(source)
    if large.shape[2] != channels:  # WebP and AVIF hold gray as RGB
        assert channels == 1
        assert ending in (".webp", ".avif")
        small = np.repeat(small, 3, axis=2)
    assert_same_colors(large, small)


@pytest.mark.parametrize("extra", ["assocalpha", "unassalpha"])
def test_premultiplied_alpha(srcli: Command, pixels: Pixels, tmp_path: Path, extra: str) -> None:
    straight = np.dstack([pixels(HEIGHT, WIDTH), pixels(HEIGHT, WIDTH, 1, seed=3) // 2 + 127])
    stored = straight.copy()
    if extra == "assocalpha":
        stored[..., :3] = np.rint(straight[..., :3] * (straight[..., 3:] / 255))
    tif(tmp_path / "alpha.tif", stored, extrasamples=[extra])
    large = by_others(upscale_file(srcli, tmp_path / "alpha.tif"))
    assert_same_colors(large, to_unit(straight))


def test_tiff_with_white_as_zero(srcli: Command, pixels: Pixels, tmp_path: Path) -> None:
    shades = pixels(HEIGHT, WIDTH, 1)[..., 0]
    tif(tmp_path / "inverted.tif", 255 - shades, photometric="miniswhite")
    assert_same_colors(by_others(upscale_file(srcli, tmp_path / "inverted.tif")), to_unit(shades))


@pytest.mark.parametrize("ending", [".jpg", ".tif"])
@pytest.mark.parametrize("profile", [CMYK, None], ids=["with profile", "without"])
def test_cmyk_becomes_srgb_through_its_profile(
    srcli: Command, pixels: Pixels, tmp_path: Path, ending: str, profile: bytes | None
) -> None:
    ink = rgb(pixels).convert("CMYK")
    source = tmp_path / f"ink{ending}"
    ink.save(source, icc_profile=profile, **({"quality": 95} if ending == ".jpg" else {}))
    with Image.open(source) as file:
        stored = file.convert("CMYK")
    shown = ImageCms.profileToProfile(
        stored,
        ImageCms.ImageCmsProfile(io.BytesIO(CMYK)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert shown is not None
    target = upscale_file(srcli, source)
    assert_same_colors(by_others(target), to_unit(np.array(shown)))
    with Image.open(target) as file:
        assert file.mode == "RGB"
        named = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(file.info["icc_profile"])))
    assert "sRGB" in named


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("profile", [SRGB, P3, ADOBE], ids=["sRGB", "P3", "Adobe RGB"])
def test_a_wide_gamut_profile_and_its_colors_are_preserved(
    srcli: Command, pixels: Pixels, tmp_path: Path, ending: str, profile: bytes
) -> None:
    source = tmp_path / f"wide{ending}"
    rgb(pixels).save(source, icc_profile=profile, **({} if ending in (".png", ".tif") else {"quality": 95}))
    target = upscale_file(srcli, source)
    with Image.open(target) as file:
        assert file.info["icc_profile"] == profile
    assert_same_colors(by_others(target), by_others(source))


def in_srgb(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_linear_image_is_upscaled_as_it_looks(srcli: Command, pixels: Pixels, tmp_path: Path, channels: int) -> None:
    """Like the same image in sRGB, converted back."""
    light = pixels(HEIGHT, WIDTH, channels, np.uint16)
    profile = LINEAR_GRAY if channels == 1 else LINEAR
    tif(tmp_path / "linear.tif", light if channels > 1 else light[..., 0], iccprofile=profile)
    usual = to_unit(light)
    usual[..., :3] = in_srgb(usual[..., :3])
    usual = np.rint(usual * 65_535).astype(np.uint16)
    tif(tmp_path / "srgb.tif", usual if channels > 1 else usual[..., 0])
    linear = by_others(upscale_file(srcli, tmp_path / "linear.tif"))
    with tifffile.TiffFile(tmp_path / "sr.tif") as file:
        assert file.pages[0].iccprofile == profile
    expected = by_others(upscale_file(srcli, tmp_path / "srgb.tif"))
    if channels == 4:
        linear[..., 3], expected[..., 3] = 1, expected[..., 3] * 0 + 1
    difference = np.abs(in_srgb(linear[..., :3]) - expected[..., :3])
    assert difference.mean() < 0.5 / 255
    assert difference[expected[..., :3] > 0.1].max() < 2 / 255


def test_an_invalid_profile_is_ignored(srcli: Command, pixels: Pixels, tmp_path: Path) -> None:
    rgb(pixels).save(tmp_path / "odd.jpg", icc_profile=b"no profile at all" * 10)
    assert_same_colors(by_others(upscale_file(srcli, tmp_path / "odd.jpg")), by_others(tmp_path / "odd.jpg"))


def photographed() -> Image.Exif:
    exif = Image.Exif()
    exif.update(
        {
            0x010E: "A cat",
            0x010F: "Maker",
            0x0110: "Model 3",
            0x0112: 6,
            0x0131: "Camera 1.2",
            0x0132: "2021:02:03 04:05:06",
        }
    )
    exif.update({0x013B: "An artist", 0x8298: "All rights"})
    ratio = TiffImagePlugin.IFDRational
    exif._ifds[0x8769] = {
        0x829A: ratio(1, 125),
        0x9003: "2020:01:01 00:00:00",
        0x927C: b"MAKERNOTE\0\1\2\3" * 10,
        0x8827: 200,
        0x9286: b"ASCII\0\0\0comment",
        0x920A: ratio(355, 10),
        0x9204: ratio(-2, 3),
        0x9000: b"0232",
        0xA434: "A lens",
        0xA002: WIDTH,
        0xA003: HEIGHT,
        0xA001: 65535,
    }
    exif._ifds[0x8825] = {1: "N", 2: (52.0, 3.0, 0.5), 3: "E", 4: (4.0, 5.0, 6.25), 6: ratio(123, 10)}
    return exif


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    b'tiff:Orientation="6" dc:rights="mine"/></rdf:RDF></x:xmpmeta>'
)


def test_png_texts_are_preserved_in_every_script(srcli: Command, tmp_path: Path, pixels: Pixels) -> None:
    text = PngInfo()
    text.add_text("Title", "plain")
    text.add_text("Author", "Grüße")
    text.add_text("Comment", "long ß " * 40, zip=True)
    text.add_itxt("Description", "日本の猫", lang="ja", tkey="説明")
    text.add_itxt("XML:com.adobe.xmp", XMP.decode())
    rgb(pixels).save(tmp_path / "lr.png", pnginfo=text)
    with Image.open(upscale_file(srcli, tmp_path / "lr.png")) as file:
        file.load()
        assert {name: file.info[name] for name in ("Title", "Author", "Comment", "Description")} == {
            "Title": "plain",
            "Author": "Grüße",
            "Comment": "long ß " * 40,
            "Description": "日本の猫",
        }
        assert file.info["Description"].lang == "ja"
        assert len([name for name in file.info if name.startswith("XML")]) == 1
    with (tmp_path / "lr.png").open("r+b") as file:  # a text whose checksum is wrong is none
        place = file.read().index("Grüße".encode("latin-1"))
        file.seek(place)
        file.write(b"X")
        file.seek(0)
        texts = texts_of_png(file)
    assert b"Title" in texts
    assert b"Author" not in texts


CHANGED = {0x0112, 0x011A, 0x011B, 0x0128, 0xA002, 0xA003, 0x8769, 0x8825}  # orientation, resolution, size, pointers


def fields_of(path: Path) -> dict[tuple[int, int], Any]:
    with Image.open(path) as file:
        exif = file.getexif()
        main = {(0, tag): value for tag, value in exif.items()}
        inner = {(group, tag): value for group in (0x8769, 0x8825) for tag, value in exif.get_ifd(group).items()}
    return {key: value.rstrip("\0") if isinstance(value, str) else value for key, value in (main | inner).items()}


def save_photographed(path: Path, image: Image.Image) -> None:
    """Like another program; Pillow writes EXIF and XMP to each format in its own way."""
    options: dict[str, Any] = {"exif": photographed(), "icc_profile": P3}
    if path.suffix == ".png":
        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", XMP.decode())
        options["pnginfo"] = text
    elif path.suffix == ".tif":
        options["tiffinfo"] = {700: XMP, 274: 6}
        del options["exif"]
    else:
        options["xmp"] = XMP
    if path.suffix in (".png", ".jpg", ".tif"):
        options["dpi"] = (300, 300)
    image.save(path, **options)
    if path.suffix == ".tif":  # Pillow leaves the inner directories out, so they come from the room under test's other door
        from srcli.io.exif import EXIF_START, add_to_tiff

        add_to_tiff(path, photographed().tobytes().removeprefix(EXIF_START), b"")


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("source", [".png", ".jpg", ".webp", ".tif", ".avif"])
def test_the_metadata_of_a_photograph_is_preserved(
    srcli: Command, pixels: Pixels, tmp_path: Path, source: str, ending: str
) -> None:
    path = tmp_path / f"photographed{source}"
    save_photographed(path, rgb(pixels))
    target = upscale_file(srcli, path, ending=ending)
    before, after = fields_of(path), fields_of(target)
    kept = {key for key in before if key[1] not in CHANGED and (key[0] or key[1] in photographed())}
    assert len(kept) >= 18
    assert {key: after.get(key) for key in kept} == {key: before[key] for key in kept}
    assert after.get((0, 0x0112), 1) == 1
    with Image.open(path) as old, Image.open(target) as file:
        upright = ImageOps.exif_transpose(old)
        assert file.size == (upright.width * SCALE, upright.height * SCALE)
        assert file.info["icc_profile"] == P3
        file.load()  # XMP may follow the pixels of a PNG
        xmp = file.info.get("xmp") or file.info.get("XML:com.adobe.xmp") or file.tag_v2[700]
        xmp = xmp.encode() if isinstance(xmp, str) else xmp
        assert b'dc:rights="mine"' in xmp
        assert b'tiff:Orientation="1"' in xmp
        if source in (".png", ".jpg", ".tif") and ending in (".png", ".jpg", ".tif"):
            assert [round(float(dots)) for dots in file.info["dpi"]] == [300, 300]


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tif", ".avif"])
def test_strip_metadata_removes_all_metadata(srcli: Command, pixels: Pixels, tmp_path: Path, ending: str) -> None:
    path = tmp_path / "photographed.jpg"
    save_photographed(path, rgb(pixels))
    target = upscale_file(srcli, path, "--strip-metadata", ending=ending)
    with Image.open(target) as file:
        assert set(file.getexif()) <= {*range(254, 300), 317, 339}  # what a TIFF says about how it is stored
        assert "icc_profile" not in file.info
        assert not {"xmp", "XML:com.adobe.xmp", "exif"} & set(file.info)
    with Image.open(path) as file:
        wide = ImageOps.exif_transpose(file)
        shown = ImageCms.profileToProfile(
            wide,
            ImageCms.ImageCmsProfile(io.BytesIO(P3)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )
    assert shown is not None
    assert_same_colors(by_others(target), to_unit(np.array(shown)))


def test_a_gray_image_without_metadata_stays_gray(srcli: Command, pixels: Pixels, tmp_path: Path) -> None:
    light = pixels(HEIGHT, WIDTH, 1, np.uint16)[..., 0]
    tif(tmp_path / "linear.tif", light, iccprofile=LINEAR_GRAY)
    large = by_others(upscale_file(srcli, tmp_path / "linear.tif", "--strip-metadata"))
    assert large.shape[2] == 1
    assert_same_colors(large, in_srgb(to_unit(light)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tif"])
def test_every_orientation_is_turned_upright(
    srcli: Command, pixels: Pixels, tmp_path: Path, ending: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = tmp_path / f"turned{ending}"
    rgb(pixels).save(source, exif=exif, **({"quality": 95} if ending in (".jpg", ".webp") else {}))
    with Image.open(source) as file:
        upright = np.array(ImageOps.exif_transpose(file))
    target = upscale_file(srcli, source)
    assert_same_colors(by_others(target), to_unit(upright))
    with Image.open(target) as file:
        assert file.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("ending", [".png", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("hidden", [(0, 255, 0), (255, 255, 255), (0, 0, 0)])
def test_a_hard_edge_has_no_fringe(srcli: Command, tmp_path: Path, ending: str, hidden: tuple[int, int, int]) -> None:
    """A red square. No color of invisible pixels appears in the result."""
    square = np.zeros((HEIGHT, WIDTH, 4), dtype=np.uint8)
    square[..., :3] = hidden
    square[6:18, 9:27] = (200, 30, 30, 255)
    Image.fromarray(square).save(tmp_path / "edge.png")
    large = by_others(upscale_file(srcli, tmp_path / "edge.png", ending=ending)) * 255
    seen = large[..., 3] > 16
    tolerance = {".webp": 24, ".avif": 30}.get(ending, 8)  # their own loss at a quality of 90 to 95
    assert np.abs(large[seen][:, :3] - (200, 30, 30)).max() <= tolerance
    assert (large[14:34, 20:52, 3] > 254).all()
    assert (large[:8, :, 3] < 1).all()


def save_frames(path: Path, pixels: Pixels) -> list[np.ndarray]:
    frames = [pixels(HEIGHT, WIDTH, seed=seed) for seed in range(3)]
    first, *others = map(Image.fromarray, frames)
    lossless = {".webp": {"lossless": True}, ".avif": {"quality": 100}}.get(path.suffix, {})
    first.save(path, save_all=True, append_images=others, **lossless, **({} if path.suffix == ".tif" else {"duration": 100}))
    return frames


@pytest.mark.parametrize("ending", [".png", ".webp", ".tif", ".avif", ".gif"])
def test_a_frame_of_an_animation_can_be_chosen(srcli: Command, pixels: Pixels, tmp_path: Path, ending: str) -> None:
    source = tmp_path / f"moving{ending}"
    frames = save_frames(source, pixels)
    large = by_others(upscale_file(srcli, source, "--frame", 2, ending=".png"))[..., :3]
    difference = np.abs(large - bicubic(to_unit(frames[1])))
    assert difference.mean() < (12 if ending in (".gif", ".avif") else 3.5) / 255  # GIF has 256 colors
    assert difference.mean() < np.abs(large - bicubic(to_unit(frames[0]))).mean() / 2
    missing = srcli("upscale", source, "-o", tmp_path / "none.png", "--frame", 4)
    assert missing.exit_code == 1
    assert "has 3 frames, so there is no frame 4" in missing.stderr


@pytest.mark.parametrize("dtype", [np.uint32, np.int16])
def test_value_types_without_a_known_white_are_rejected(srcli: Command, tmp_path: Path, dtype: type) -> None:
    tifffile.imwrite(tmp_path / "odd.tif", np.ones((HEIGHT, WIDTH), dtype=dtype), metadata=None)
    outcome = srcli("upscale", tmp_path / "odd.tif")
    assert outcome.exit_code == 1
    assert "for which the value of white is unknown" in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


def test_five_channels_are_rejected(srcli: Command, pixels: Pixels, tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "five.tif",
        pixels(HEIGHT, WIDTH, 5),
        photometric="rgb",
        extrasamples=["unspecified", "unspecified"],
        metadata=None,
    )
    outcome = srcli("upscale", tmp_path / "five.tif")
    assert outcome.exit_code == 1
    assert "has 5 channels; up to 4 are supported" in outcome.stderr


@pytest.mark.parametrize(("word", "color"), [("white", (255,) * 3), ("#2060a0", (32, 96, 160))])
def test_transparency_in_jpeg_becomes_the_background(
    srcli: Command, tmp_path: Path, word: str, color: tuple[int, int, int]
) -> None:
    Image.new("RGBA", (WIDTH, HEIGHT), (250, 0, 0, 0)).save(tmp_path / "clear.png")
    target = tmp_path / "clear.jpg"
    outcome = srcli("upscale", tmp_path / "clear.png", "-o", target, "--background", word)
    assert outcome.exit_code == 0
    assert f"transparency (replaced by {word})" in outcome.stderr
    with Image.open(target) as file:
        assert np.abs(np.array(file).astype(int) - color).max() <= 2


def test_opaque_alpha_causes_no_warning(srcli: Command, pixels: Pixels, tmp_path: Path) -> None:
    Image.fromarray(pixels(HEIGHT, WIDTH)).convert("RGBA").save(tmp_path / "opaque.png")
    outcome = srcli("upscale", tmp_path / "opaque.png", "-o", tmp_path / "opaque.jpg", "--device", "cpu")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
