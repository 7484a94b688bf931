"""Every format in, every format out: the table in docs/formats.md is the expected answer."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from srcli.errors import SrcliError
from srcli.io.formats import FORMATS, WRITTEN, SaveOptions
from srcli.io.image import Image as Picture
from srcli.io.image import Metadata
from srcli.io.read import open_image, read_exact_srgb, read_image
from srcli.io.write import check_target, write_image

Pixels = Callable[..., np.ndarray]

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
HEIGHT, WIDTH = 24, 36
P3 = pyvips.Image.profile_load("p3")
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:rights="mine"/></rdf:RDF></x:xmpmeta>'
)
REPORTS = {
    "more than 256 colors": r"colors \(reduced to 256\)",
    "16 bits": r"1[0-6] bits \(reduced to (8|12)\)",
    "transparency": r"transparency \(replaced by white\)",
    "color profile": r"color profile \(converted to sRGB\)",
    "HDR (PQ, HLG)": r"HDR \(converted to sRGB, what is brighter than white clipped\)",
    "gain map": "gain map",
    "EXIF": "EXIF",
    "XMP": "XMP",
    "IPTC": "IPTC",
    "texts of PNG": r"texts \(Title\)",
}
"""What is said of each row of the table."""


def table() -> dict[str, dict[str, str]]:
    """The answer, by row and format."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]
    start = next(number for number, row in enumerate(rows) if row[:2] == ["", "PNG"])
    names = rows[start][1:]
    return {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows[start + 2 :] if len(row) == len(names) + 1}


TABLE = table()


def exif() -> Image.Exif:
    block = Image.Exif()
    block[0x010F], block[0x0112] = "Maker", 6
    return block


def save(path: Path, pixels: np.ndarray, *, described: bool) -> None:
    """Written by Pillow, imagecodecs or libheif. 16-bit files with metadata get it from libvips."""
    deep, name = pixels.dtype == np.uint16, path.suffix[1:]
    metadata: Metadata = ()
    if described:
        metadata = (("icc-profile-data", pyvips.GValue.blob_type, P3), ("xmp-data", pyvips.GValue.blob_type, XMP))
    if name == "heic":
        heif = pytest.importorskip("pillow_heif")
        mode = "RGBA" if pixels.shape[2] == 4 else "RGB"
        file = heif.from_bytes(mode=mode, size=pixels.shape[1::-1], data=pixels.tobytes())
        more = {"exif": exif().tobytes(), "xmp": XMP, "icc_profile": P3} if described else {}
        file.save(path, quality=-1, chroma=444, **more)
    elif name == "jxl":
        pytest.importorskip("pillow_jxl")
        write_image(Picture(pixels, metadata), path, options=SaveOptions(lossless=True))
    elif name == "ppm" and deep:
        path.write_bytes(b"P6 %d %d 65535\n" % pixels.shape[1::-1] + pixels.astype(">u2").tobytes())
    elif deep and not described and name == "png":
        path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))
    elif deep and not described and name == "tif":
        extra = {"extrasamples": ["unassalpha"]} if pixels.shape[2] == 4 else {}
        tifffile.imwrite(path, pixels, photometric="rgb", metadata=None, **extra)
    elif deep:
        write_image(Picture(pixels, metadata), path)
    else:
        save_by_pillow(path, Image.fromarray(pixels), described=described)


def save_by_pillow(path: Path, image: Image.Image, *, described: bool) -> None:
    options: dict[str, object] = {
        ".webp": {"lossless": True},
        ".avif": {"quality": 100},
        ".jpg": {"quality": 95, "subsampling": 0},
    }.get(path.suffix, {})
    if described and path.suffix in (".png", ".jpg", ".webp", ".avif", ".tif"):
        options |= {"exif": exif(), "icc_profile": P3, "xmp": XMP}
    if described and path.suffix == ".png":
        text = PngInfo()
        text.add_text("Title", "a title")
        text.add_itxt("XML:com.adobe.xmp", XMP.decode())
        options |= {"pnginfo": text}
        del options["xmp"]
    if described and path.suffix == ".tif":
        options = {"tiffinfo": {700: XMP, 274: 6, 271: "Maker"}, "icc_profile": P3}
    image.save(path, **options)


DEEP = {"PNG", "TIFF", "AVIF", "JPEG XL", "PNM"}
OPAQUE = {"JPEG", "BMP", "PNM", "GIF"}
PLAIN = {"BMP", "PNM", "GIF"}
CASES = [
    pytest.param(source, target, deep, alpha, described, id=f"{source.name}-{target.name}-{deep}-{alpha}-{described}")
    for source in FORMATS
    for target in WRITTEN
    for deep in ([False, True] if source.name in DEEP else [False])
    for alpha in ([False] if source.name in OPAQUE else [False, True])
    for described in ([False] if source.name in PLAIN else [False, True])
]


@pytest.mark.parametrize(("source", "target", "deep", "alpha", "described"), CASES)
def test_each_format_becomes_each_other_as_the_table_says(
    tmp_path: Path, pixels: Pixels, source: object, target: object, deep: bool, alpha: bool, described: bool
) -> None:
    before, after = (tmp_path / f"{name}{format_.extensions[0]}" for name, format_ in (("lr", source), ("sr", target)))
    save(before, pixels(HEIGHT, WIDTH, 4 if alpha else 3, np.uint16 if deep else np.uint8), described=described)
    file = open_image(before)
    fields = {name: value for name, _, value in file.metadata}
    has = {
        "more than 256 colors": True,
        "16 bits": file.dtype == np.uint16 and fields.get("source-bits", 16) > (12 if target.name == "AVIF" else 8),
        "transparency": file.channels == 4,
        "color profile": "icc-profile-data" in fields,
        "EXIF": "exif-data" in fields,
        "XMP": "xmp-data" in fields,
        "texts of PNG": "png-texts" in fields,
    }
    if described:
        assert has["XMP"]
        assert has["color profile"] == (source.name != "JPEG XL" or deep)  # 16 bits are linear
    lost = write_image(Picture(file.read(file.height), file.metadata), after)
    said = {row for row, pattern in REPORTS.items() if any(re.fullmatch(pattern, what) for what in lost)}
    assert said == {row for row, present in has.items() if present and TABLE[row][target.name] != "kept"}
    assert len(said) == len(lost)

    result = read_image(after)
    kept = {name: value for name, _, value in result.metadata}
    upright = described and source.name in ("PNG", "JPEG", "WebP", "TIFF") and not (deep and source.name in DEEP)
    assert result.pixels.shape[:2] == ((WIDTH, HEIGHT) if upright else (file.height, file.width))
    for row, name in (("EXIF", "exif-data"), ("XMP", "xmp-data")):
        if has[row]:
            assert (name in kept) == (TABLE[row][target.name] == "kept")
    if has["color profile"] and TABLE["color profile"][target.name] == "kept":
        assert kept["icc-profile-data"] == fields["icc-profile-data"]
    for name, part in (("exif-data", b"Maker"), ("xmp-data", b'dc:rights="mine"')):
        if name in kept and part in fields.get(name, b""):
            assert part in kept[name]
    # transparency that is on or off, or replaced in linear light, looks different
    if not (has["transparency"] and (target.name == "GIF" or (source.name == "JPEG XL" and deep))):
        assert_same_look(before, after)


def assert_same_look(before: Path, after: Path) -> None:
    """The same mean color on white in sRGB, but for the loss of the encoders at 24x36 pixels."""
    seen = []
    for path in (before, after):
        pixels = read_exact_srgb(path).astype(float)
        pixels /= 65_535 if pixels.max() > 255 else 255
        if pixels.shape[2] == 4:
            pixels = pixels[..., :3] * pixels[..., 3:] + 1 - pixels[..., 3:]
        seen.append(pixels.mean((0, 1)) * 255)
    assert np.abs(seen[0] - seen[1]).max() < (2 if after.suffix == ".gif" else 1.5)


def test_the_table_has_all_formats_and_rows() -> None:
    assert set(TABLE) == {*REPORTS, "EXIF above 64 KB", "animation", "pages"}
    for answers in TABLE.values():
        assert list(answers) == [format_.name for format_ in WRITTEN]
        assert set(answers.values()) <= {"kept", "reduced", "replaced", "converted", "lost", "refused"}
    for format_ in FORMATS:
        (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| {format_.name} | `")]
        assert re.findall(r"`(\.\w+)`", row) == list(format_.extensions)
        assert row.rstrip("| ").endswith("yes") == format_.written


@pytest.mark.parametrize("target", WRITTEN, ids=lambda format_: format_.name)
def test_what_few_files_have_follows_the_table(tmp_path: Path, pixels: Pixels, target: object) -> None:
    blob = pyvips.GValue.blob_type
    large = Image.Exif()
    large._ifds[0x8769] = {0x927C: b"x\0" * 40_000}
    rare: dict[str, Metadata] = {
        "IPTC": (("iptc-data", blob, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\0"),),
        "gain map": open_image(Path(__file__).parent / "cases" / "uhdr.jpg").metadata,
        "HDR (PQ, HLG)": open_image(Path(__file__).parent / "cases" / "pq.avif").metadata,
        "EXIF above 64 KB": (("exif-data", blob, large.tobytes()),),
    }
    for row, metadata in rare.items():
        after = tmp_path / f"sr{target.extensions[0]}"
        lost = write_image(Picture(pixels(HEIGHT, WIDTH), metadata), after, overwrite=True)
        pattern = REPORTS.get(row, r"EXIF|the largest entries of EXIF \(more than 64 KB\)")
        assert any(re.fullmatch(pattern, what) for what in lost) == (TABLE[row][target.name] != "kept"), row


@pytest.mark.parametrize("target", WRITTEN, ids=lambda format_: format_.name)
@pytest.mark.parametrize("row", ["animation", "pages"])
def test_frames_follow_the_table(tmp_path: Path, pixels: Pixels, row: str, target: object) -> None:
    frames = [Image.fromarray(pixels(HEIGHT, WIDTH, seed=seed)) for seed in range(2)]
    stream = io.BytesIO()
    kind = {"animation": "PNG", "pages": "TIFF"}[row]
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
    file = open_image(stream.getvalue(), all_frames=True)
    assert file.animation is not None
    path = tmp_path / f"sr{target.extensions[0]}"
    if TABLE[row][target.name] == "refused":
        with pytest.raises(SrcliError, match="cannot hold 2"):
            check_target(path, WIDTH, HEIGHT, animation=file.animation)
    else:
        check_target(path, WIDTH, HEIGHT, animation=file.animation)
