"""What is kept of metadata, what is updated, and what is reported. Read by Pillow and by hand."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from PIL.IptcImagePlugin import getiptcinfo
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from srcli.io.exif import updated_exif
from srcli.io.image import Image as Picture
from srcli.io.jpeg_segments import APP1, read_segments
from srcli.io.png_chunks import chunks
from srcli.io.read import open_image, read_image, read_srgb
from srcli.io.write import write_image
from srcli.io.xmp import EXTENDED_START, of_jpeg
from tests.conftest import CommandResult

CASES = Path(__file__).parent / "cases"
ENDINGS = (".png", ".jpg", ".webp", ".tif", ".avif", ".jxl")
Command = Callable[..., CommandResult]
Pixels = Callable[..., np.ndarray]

PACKET = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:rights="mine"%s/></rdf:RDF></x:xmpmeta>'
)


def written(path: Path, target: Path, size: int = 2) -> list[str]:
    """Write an image scaled up by repetition. Returns what is lost."""
    file = open_image(path)
    pixels = file.read(file.height).repeat(size, axis=0).repeat(size, axis=1)
    return [*file.lost, *write_image(Picture(pixels, file.metadata), target, overwrite=True)]


def xmp_of(path: Path) -> bytes:
    return next((value for name, _, value in read_image(path).metadata if name == "xmp-data"), b"")


@pytest.mark.parametrize("source", ["xmp.jpg"])
def test_xmp_in_png_is_an_uncompressed_text_of_adobes_name(tmp_path: Path, source: str) -> None:
    assert written(CASES / source, tmp_path / "sr.png") == []
    with (tmp_path / "sr.png").open("rb") as file:
        bodies = [body for _, body in chunks(file, (b"iTXt", b"zTXt", b"tEXt"))]
    (body,) = bodies
    keyword, rest = body.split(b"\0", 1)
    assert keyword == b"XML:com.adobe.xmp"
    assert rest[:4] == b"\0\0\0\0"  # not compressed, no language, no translated keyword
    assert rest[4:] == xmp_of(CASES / source)
    assert "Küche 東京" in rest[4:].decode()


def big_exif() -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif._ifds[0x8769] = {0x927C: b"x\0" * 90_000}
    return exif.tobytes()


@pytest.mark.parametrize("ending", ENDINGS)
def test_exif_above_64_kb_is_kept_or_reported(tmp_path: Path, pixels: Pixels, ending: str) -> None:
    path, target = tmp_path / "lr.png", tmp_path / f"sr{ending}"
    Image.fromarray(pixels(16, 24)).save(path, exif=big_exif())
    lost = written(path, target)
    fields = {name: value for name, _, value in read_image(target).metadata}
    if ending != ".jpg":
        assert lost == []
        assert b"x\0" * 90_000 in fields["exif-data"]
    else:
        assert lost == ["the largest entries of EXIF (more than 64 KB)"]
    assert b"Maker" in fields["exif-data"]


def extended_jpeg(path: Path, pixels: Pixels) -> bytes:
    """A JPEG with 100 KB of XMP, written by Pillow and by hand (XMP specification part 3, section 1.1.3.1)."""
    more = PACKET.replace(b'dc:rights="mine"', b'dc:source="%s"' % (b"LONG " * 20_000)) % b""
    guid = b"0123456789ABCDEF0123456789ABCDEF"
    stream = io.BytesIO()
    note = b' xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="%s"' % guid
    Image.fromarray(pixels(16, 24)).save(stream, "JPEG", xmp=PACKET % note)
    parts = b""
    for start in range(0, len(more), 60_000):
        body = EXTENDED_START + guid + struct.pack(">II", len(more), start) + more[start : start + 60_000]
        parts = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + parts  # in any order
    content = stream.getvalue()
    path.write_bytes(content[:2] + parts + content[2:])
    return more


@pytest.mark.parametrize("ending", ENDINGS)
def test_extended_xmp_is_kept(tmp_path: Path, pixels: Pixels, ending: str) -> None:
    path, target = tmp_path / "lr.jpg", tmp_path / f"sr{ending}"
    extended_jpeg(path, pixels)
    assert written(path, target) == []
    packet = xmp_of(target)
    assert b'dc:rights="mine"' in packet
    assert b"LONG " * 20_000 in packet
    assert b"HasExtendedXMP" not in packet
    if ending == ".jpg":
        with target.open("rb") as file:
            segments = [content for marker, content in read_segments(file)[0] if marker == APP1]
        assert sum(content.startswith(EXTENDED_START) for content in segments) == 2
        assert of_jpeg(segments)[1] == []


def test_incomplete_extended_xmp_is_reported(tmp_path: Path, pixels: Pixels) -> None:
    path = tmp_path / "lr.jpg"
    extended_jpeg(path, pixels)
    content = path.read_bytes()
    path.write_bytes(content.replace(EXTENDED_START, b"http://example.org/another/one12345/\0"[: len(EXTENDED_START)], 1))
    assert written(path, tmp_path / "sr.png") == ["Extended XMP (incomplete)"]
    assert b"HasExtendedXMP" not in xmp_of(tmp_path / "sr.png")


def test_the_gain_map_of_ultra_hdr_is_kept_in_jpeg(srcli: Command, tmp_path: Path) -> None:
    target = tmp_path / "sr.jpg"
    outcome = srcli("upscale", CASES / "uhdr.jpg", "-o", target, "--scale", 2, "--device", "cpu")
    assert outcome.exit_code == 0
    assert "does not keep" not in outcome.stderr
    before, after = (imagecodecs.ultrahdr_decode(path.read_bytes()) for path in (CASES / "uhdr.jpg", target))
    assert after.shape == (128, 192, 4)
    assert np.abs(before[..., :3].mean((0, 1)) - after[..., :3].mean((0, 1))).max() < 0.02  # linear light
    assert np.abs(read_srgb(CASES / "uhdr.jpg").mean((0, 1)) - read_srgb(target).mean((0, 1))).max() < 1


def test_the_name_of_a_file_with_a_gain_map_need_not_be_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    path.write_bytes((CASES / "uhdr.jpg").read_bytes())
    assert written(path, tmp_path / os.fsdecode(b"sr\xe9.jpg")) == []


@pytest.mark.parametrize("ending", [".png", ".webp", ".tif", ".avif", ".jxl"])
def test_a_gain_map_is_reported_by_other_formats(tmp_path: Path, ending: str) -> None:
    assert "gain map" in written(CASES / "uhdr.jpg", tmp_path / f"sr{ending}")


def test_a_gain_map_is_turned_with_its_image(tmp_path: Path) -> None:
    content = (CASES / "uhdr.jpg").read_bytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    block = exif.tobytes()
    block = block if block.startswith(b"Exif") else b"Exif\0\0" + block
    turned = content[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + content[2:]
    (tmp_path / "turned.jpg").write_bytes(turned)
    assert written(tmp_path / "turned.jpg", tmp_path / "sr.jpg", size=1) == []
    upright = np.rot90(imagecodecs.ultrahdr_decode(content).astype(float), -1)
    assert np.abs(imagecodecs.ultrahdr_decode((tmp_path / "sr.jpg").read_bytes()) - upright).mean() < 0.05


CLAIMS = (
    b' xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"'
    b' xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MotionPhoto="1"'
)


@pytest.mark.parametrize("ending", ENDINGS)
def test_xmp_does_not_claim_what_is_gone(tmp_path: Path, pixels: Pixels, ending: str) -> None:
    Image.fromarray(pixels(16, 24)).save(tmp_path / "lr.jpg", xmp=PACKET % CLAIMS)
    with (tmp_path / "lr.jpg").open("ab") as file:
        file.write(b"\0\0\0\x18ftypmp42" + bytes(100))
    lost = written(tmp_path / "lr.jpg", tmp_path / f"sr{ending}")
    assert lost == ["gain map", "video of a motion photo"]
    packet = xmp_of(tmp_path / f"sr{ending}")
    assert b'dc:rights="mine"' in packet
    assert b"hdrgm" not in packet
    assert b"MotionPhoto" not in packet


def test_texts_of_png_are_reported_by_other_formats(srcli: Command, tmp_path: Path, pixels: Pixels) -> None:
    text = PngInfo()
    text.add_text("parameters", "a cat, steps: 20")
    text.add_itxt("Title", "Katze")
    Image.fromarray(pixels(16, 24)).save(tmp_path / "lr.png", pnginfo=text)
    outcome = srcli("upscale", tmp_path / "lr.png", "-o", tmp_path / "sr.jpg", "--scale", 2, "--device", "cpu")
    assert f"{tmp_path / 'sr.jpg'} does not keep everything: texts (parameters, Title)." in outcome.stderr


SIZES = b' xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/" tiff:ImageWidth="24" '
SIZES += b'tiff:ImageLength="16" exif:PixelXDimension="24" exif:PixelYDimension="16"'


@pytest.mark.parametrize("ending", ENDINGS)
def test_sizes_in_metadata_are_updated(tmp_path: Path, pixels: Pixels, ending: str) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif._ifds[0x8769] = {0xA002: 24, 0xA003: 16}
    Image.fromarray(pixels(16, 24)).save(tmp_path / "lr.jpg", xmp=PACKET % SIZES, exif=exif, dpi=(300, 300))
    target = tmp_path / f"sr{ending}"
    assert written(tmp_path / "lr.jpg", target) == []
    packet = xmp_of(target)
    for name in (b"tiff:ImageWidth", b"exif:PixelXDimension"):
        assert name + b'="48"' in packet
    for name in (b"tiff:ImageLength", b"exif:PixelYDimension"):
        assert name + b'="32"' in packet
    fields = {name: str(value) for name, _, value in read_image(target).metadata}
    if ending != ".tif":  # where the size is in the tags of the file
        assert fields["exif-ifd2-PixelXDimension"].split()[0] == "48"
        assert fields["exif-ifd2-PixelYDimension"].split()[0] == "32"


def test_dates_are_kept_if_asked(srcli: Command, model: Path, photo: Path) -> None:
    os.utime(photo, (1_000_000_000, 1_000_000_001))
    target = photo.with_name("photo_x2.png")
    assert srcli("upscale", photo, "-m", model).exit_code == 0
    assert target.stat().st_mtime > 1_600_000_000
    assert srcli("upscale", photo, "-m", model, "--keep-dates", "--overwrite").exit_code == 0
    assert target.stat().st_mtime == 1_000_000_001


def test_a_packet_with_entities_is_not_expanded(tmp_path: Path, pixels: Pixels) -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa">]>' + PACKET % CLAIMS
    Image.fromarray(pixels(16, 24)).save(tmp_path / "lr.jpg", xmp=bomb)
    assert written(tmp_path / "lr.jpg", tmp_path / "sr.png") == []
    assert zlib.crc32(bomb) == zlib.crc32(xmp_of(tmp_path / "sr.png"))


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
@pytest.mark.parametrize("other", ["alpha", "depth map", "gain map"])
def test_further_images_of_avif_and_heic_are_reported(pixels: Pixels, kind: str, other: str) -> None:
    """An image with alpha, of which the other image becomes one of another kind."""
    heif = pytest.importorskip("pillow_heif")
    stream, image = io.BytesIO(), Image.fromarray(pixels(24, 36, 4))
    if kind == "AVIF":
        image.save(stream, kind)
    else:
        heif.from_pillow(image).save(stream)
    content = stream.getvalue()
    alpha = next(
        name for name in (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1") if name in content
    )
    names = {"alpha": alpha, "depth map": alpha.replace(b":alpha", b":depth").replace(b":auxid:1", b":auxid:2")}
    name = names.get(other, b"urn:x:gainmap").ljust(len(alpha), b"\0")
    file = open_image(content.replace(alpha, name))
    assert file.lost == (() if other == "alpha" else (other,))
    assert file.channels == (4 if other == "alpha" else 3)


def test_further_images_of_heic_are_counted(tmp_path: Path, pixels: Pixels) -> None:
    heif = pytest.importorskip("pillow_heif")
    file = heif.from_pillow(Image.fromarray(pixels(64, 96)))
    file.info["thumbnails"] = [32]
    file.save(tmp_path / "one.heic")
    assert open_image(tmp_path / "one.heic").lost == ()
    file.add_from_pillow(Image.fromarray(pixels(64, 64)))
    file.save(tmp_path / "two.heic")
    assert b"thmb" in (tmp_path / "two.heic").read_bytes()
    assert open_image(tmp_path / "two.heic").lost == ("1 further image",)


THUMBNAIL = b"\xff\xd8 a thumbnail \xff\xd9"


def camera_exif(order: str) -> bytes:
    """An EXIF block with a tag that few programs know, a note at a certain place, and a thumbnail, written by hand."""

    def directory(entries: list[tuple[int, int, int, int]], following: int) -> bytes:
        values = (struct.pack(order + ("HHLHxx" if kind == 3 else "HHLL"), tag, kind, *rest) for tag, kind, *rest in entries)
        return struct.pack(order + "H", len(entries)) + b"".join(values) + struct.pack(order + "L", following)

    main = directory([(0x0112, 3, 1, 6), (0x4746, 3, 1, 4), (0x8769, 4, 1, 100)], 200)
    sub = directory([(0x927C, 7, 20, 160), (0xA002, 3, 1, 24), (0xA003, 4, 1, 16)], 0)
    small = directory([(0x0201, 4, 1, 240), (0x0202, 4, 1, len(THUMBNAIL))], 0)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", 8)
    block = (head + main).ljust(100, b"\0") + sub
    block = (block.ljust(160, b"\0") + b"a note of the camera").ljust(200, b"\0") + small
    return b"Exif\0\0" + block.ljust(240, b"\0") + THUMBNAIL


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".avif", ".jxl"])
def test_exif_stays_as_it_is_but_for_what_changes(tmp_path: Path, pixels: Pixels, ending: str, order: str) -> None:
    """Places in a block matter to the notes of camera makers."""
    block = camera_exif(order)
    Image.fromarray(pixels(16, 24)).save(tmp_path / "lr.jpg", exif=block)
    target = tmp_path / f"sr{ending}"
    assert written(tmp_path / "lr.jpg", target) == []
    content = target.read_bytes()
    assert THUMBNAIL not in content
    start = content.rfind(block[6:14])
    known = ImageFileDirectory_v2(content[start : start + 8])
    stream = io.BytesIO(content[start : start + len(block) - 6])
    assert content[start + 160 :].startswith(b"a note of the camera")
    stream.seek(8)
    known.load(stream)
    assert (known[0x0112], known[0x4746], known.next) == (1, 4, 0)
    with Image.open(target) if ending != ".jxl" else Image.open(tmp_path / "lr.jpg") as file:
        sub = file.getexif().get_ifd(0x8769)
        assert (sub[0xA002], sub[0xA003]) == ((32, 48) if ending != ".jxl" else (24, 16))
    damaged = bytes(block[:60])
    assert len(updated_exif(damaged, 1, 1)) == 54


@pytest.mark.parametrize("ending", [".jpg", ".tif"])
@pytest.mark.parametrize("source", [".jpg", ".tif"])
def test_iptc_is_kept_whole(tmp_path: Path, pixels: Pixels, source: str, ending: str) -> None:
    records = b"".join(struct.pack(">BBBH", 28, 2, number, 5) + b"Value" for number in range(20, 29))
    lr, target = tmp_path / f"lr{source}", tmp_path / f"sr{ending}"
    image = Image.fromarray(pixels(16, 24))
    if source == ".tif":
        image.save(lr, tiffinfo={33723: records})
    else:
        resources = b"".join(b"8BIM" + struct.pack(">HHL", kind, 0, len(records)) + records for kind in (0x040C, 0x0404))
        image.save(lr)
        content = lr.read_bytes()
        segment = b"Photoshop 3.0\0" + resources
        lr.write_bytes(content[:2] + b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment + content[2:])
    assert written(lr, target) == []
    assert target.read_bytes().count(records) == 1  # not as a thumbnail
    with Image.open(target) as file:
        assert getiptcinfo(file) == {(2, number): b"Value" for number in range(20, 29)}


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("source", [".png", ".jpg", ".bmp"])
def test_the_resolution_is_kept(tmp_path: Path, pixels: Pixels, source: str, ending: str) -> None:
    """Also where only EXIF holds it, and if EXIF says otherwise."""
    exif = Image.Exif()
    exif[0x011A] = exif[0x011B] = 72
    more = {"exif": exif} if source == ".png" and ending != ".webp" else {}
    Image.fromarray(pixels(16, 24)).save(tmp_path / f"lr{source}", dpi=(300, 200), **more)
    assert written(tmp_path / f"lr{source}", tmp_path / f"sr{ending}") == []
    with Image.open(tmp_path / f"sr{ending}") as file:
        found = file.info.get("dpi") or [file.getexif()[tag] for tag in (0x011A, 0x011B)]
        assert [round(float(dots)) for dots in found] == [300, 200]
