"""Files that libvips cannot read, or reads with other colors or only in part. Pillow and its plugins decode them.

Animated PNG and WebP, AVIF sequences, BMP, PNM, HEIC and JPEG XL, and TIFF in YCbCr and CIELAB.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import imagecodecs
import numpy as np
import pyvips
from PIL import ImageCms
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.Image import Image as PillowImage
from PIL.ImageFile import ImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from srcli.errors import SrcliError
from srcli.io.animation import DEFAULT_DELAY, Animation, animation_of
from srcli.io.apng import animation_of_png, read_apng
from srcli.io.avif import loop_of_avif
from srcli.io.exif import EXIF_START, fields_of_exif, read_directories
from srcli.io.files import open_binary
from srcli.io.jxl import header_of_jxl
from srcli.io.png_chunks import SIGNATURE
from srcli.io.vips import with_fields_of

_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_JXL = (b"\xff\x0a", b"\0\0\0\x0cJXL ")
_SRGB_OF_LIBJXL = (b"cicp\0\0\0\0\x01\x0d", "_D65_Rel_SRG".encode("utf-16-be"))
"""What the profiles contain that libjxl makes for sRGB: code points, and a description for gray."""
_KINDS: dict[bytes, type[ImageFile]] = {
    b"BM": BmpImageFile,
    b"II": TiffImageFile,
    b"MM": TiffImageFile,
    **{b"P%d" % number: PpmImageFile for number in range(1, 7)},
}
"""By the first two bytes."""
_WEBP_ANIMATED = 0x02  # a flag
_BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 258, 259, 262, 274
_YCBCR, _CIELAB, _ICCLAB = 6, 8, 9
_JPEG_IN_TIFF = 7  # libvips converts its YCbCr correctly


@dataclass(frozen=True)
class DecodedFile:
    """A file that another library decodes. read: a frame, counted from 1, with its color profile, EXIF and XMP.

    animation: its timing, for files with several frames.
    """

    loader: str
    width: int
    height: int
    frames: int
    read: Callable[[int], pyvips.Image]
    animation: Callable[[], Animation] | None = None
    close: Callable[[], None] = lambda: None


def open_decoded(source: Path | bytes, name: str) -> DecodedFile | None:
    """The file, if it is one for this module. None for others, and for damaged ones, which libvips reports.

    Raises SrcliError if the library for its format is not installed.
    """
    with open_binary(source) as file:
        start = file.read(64)
    if start.startswith(_JXL):
        return _open_jxl(source, name)
    if start[4:8] == b"ftyp" and start[8:12] in _HEIC and b"avif" not in start:
        return _open_heic(source, name)
    if start.startswith(SIGNATURE):
        return _open_apng(source, name)
    if start[8:16] == b"WEBPVP8X" and len(start) > 20 and start[20] & _WEBP_ANIMATED:
        return _open_animated_webp(source, name)
    kind = AvifImageFile if start[4:12] == b"ftypavis" else _KINDS.get(start[:2])
    if kind is None:
        return None
    if kind is TiffImageFile and not _is_misread_tiff(source, name):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file_ = kind(io.BytesIO(source) if isinstance(source, bytes) else source)
            frames = int(getattr(file_, "n_frames", 1))
    except Exception:  # Pillow raises errors of many types for damaged files
        return None
    if frames == 1 and kind is AvifImageFile:
        file_.close()
        return None
    loader = {AvifImageFile: "heifload", TiffImageFile: "tiffload", BmpImageFile: "bmpload"}.get(kind, "ppmload")

    def animation() -> Animation:
        if kind is TiffImageFile:
            return _pages(file_, name, frames)
        with open_binary(source) as file:
            loop = loop_of_avif(file)
        try:
            return Animation(frames, tuple(_delay(file_, frame) for frame in range(frames)), loop)
        except Exception as error:  # as above
            raise SrcliError(f"Cannot read all frames of {name} ({error}). Get the file again.") from None

    return DecodedFile(
        loader,
        file_.width,
        file_.height,
        frames,
        lambda frame: _read_frame(name, file_, frame),
        animation,
        file_.close,
    )


def _open_apng(source: Path | bytes, name: str) -> DecodedFile | None:
    """None for a PNG with one image."""
    file = open_binary(source)
    animation = animation_of_png(file)
    if animation is None:
        file.close()
        return None
    try:
        header = pyvips.Image.pngload_buffer(source if isinstance(source, bytes) else source.read_bytes())
    except pyvips.Error:
        file.close()
        return None
    frames: Iterator[np.ndarray] = iter(())
    done = 0

    def read(frame: int) -> pyvips.Image:
        """Frames are composed one after another."""
        nonlocal frames, done
        if frame <= done or not done:
            frames, done = read_apng(file), 0
        try:
            pixels = next(islice(frames, frame - done - 1, None))
            done = frame
        except (pyvips.Error, ValueError, struct.error, StopIteration) as error:
            raise SrcliError(f"Cannot read frame {frame} of {name} ({error or 'it is missing'}). Get the file again.") from None
        return with_fields_of(with_fields(pixels, icc=None), header)

    return DecodedFile("pngload", header.width, header.height, animation.frames, read, lambda: animation, file.close)


def _open_animated_webp(source: Path | bytes, name: str) -> DecodedFile | None:
    """libvips would keep all frames in memory or in a temporary file. None for frames that it has to turn."""
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
        header = pyvips.Image.webpload_buffer(data, n=-1)
        file = WebPImageFile(io.BytesIO(data))
        frames, turned = file.n_frames, file.getexif().get(_ORIENTATION, 1) != 1
    except Exception:  # Pillow raises errors of many types for damaged files
        return None
    if turned:
        file.close()
        return None
    return DecodedFile(
        "webpload",
        file.width,
        file.height,
        frames,
        lambda frame: _read_frame(name, file, frame),
        lambda: animation_of(header, frames),
        file.close,
    )


def _pages(file: ImageFile, name: str, frames: int) -> Animation:
    """Raises SrcliError if they differ."""
    kinds = set()
    for frame in range(frames):
        file.seek(frame)
        kinds.add((file.size, file.mode, file.getexif().get(_ORIENTATION)))
    if len(kinds) > 1:
        raise pages_differ(name, frames)
    return Animation(frames)


def pages_differ(name: str, frames: int) -> SrcliError:
    return SrcliError(
        f"{name} has {frames} pages of different sizes, types or orientations; choose one with `frame`, as in `frame=1`."
    )


def _delay(file: ImageFile, frame: int) -> int:
    file.seek(frame)
    file.load()
    return round(float(file.info.get("duration", DEFAULT_DELAY)))


def _is_misread_tiff(source: Path | bytes, name: str) -> bool:
    """Whether libvips would return YCbCr or CIELAB values as RGB. Raises SrcliError if Pillow would, too."""
    try:
        with open_binary(source) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tags, _ = read_directories(file)
        photometric, compression = tags.get(_PHOTOMETRIC), tags.get(_COMPRESSION)
        deep = max(cast("tuple[int, ...]", tags.get(_BITS, (8,)))) > 8
    except Exception:  # Pillow raises errors of many types for damaged files
        return False
    if photometric == _ICCLAB:
        raise SrcliError(f"{name} is in ICC CIELAB, which srcli does not read. Convert it to RGB first.")
    return (photometric == _YCBCR and compression != _JPEG_IN_TIFF) or (photometric == _CIELAB and not deep)


def _read_frame(name: str, file: ImageFile, frame: int) -> pyvips.Image:
    """Raises SrcliError if it cannot be decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file.seek(frame - 1)
            pixels = _deep_pnm(file) if isinstance(file, PpmImageFile) else None
            pixels = _as_array(file) if pixels is None else pixels
    except Exception as error:  # as above
        raise SrcliError(f"Cannot read frame {frame} of {name} ({error}). Get the file again.") from None
    info = file.info
    icc = None if file.mode == "LAB" else info.get("icc_profile")
    return with_fields(pixels, icc=icc, exif=info.get("exif"), xmp=info.get("xmp"), dpi=info.get("dpi"))


def _as_array(file: PillowImage) -> np.ndarray:
    if file.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return np.asarray(ImageCms.profileToProfile(file, lab, srgb, outputMode="RGB"))
    if file.mode.startswith("I"):  # 16-bit gray
        return np.asarray(file).astype(np.uint16)
    modes = {"1": "L", "P": "RGBA" if file.has_transparency_data else "RGB", "YCbCr": "RGB"}
    known = ("L", "LA", "RGB", "RGBA")
    return np.asarray(file if file.mode in known else file.convert(modes.get(file.mode, "RGBA")))


def _deep_pnm(file: PpmImageFile) -> np.ndarray | None:
    """The pixels of a binary PPM with more than 8 bits, which Pillow reduces to 8. None for others."""
    args = file.tile[0].args if file.tile else None
    most = args[-1] if isinstance(args, tuple) else None
    if file.mode != "RGB" or not isinstance(most, int) or most < 256 or file.fp is None:
        return None
    file.fp.seek(file.tile[0].offset)
    values = np.frombuffer(file.fp.read(file.width * file.height * 6), dtype=">u2").reshape(file.height, file.width, 3)
    return np.rint(values * (65_535 / most)).astype(np.uint16)


def _open_heic(source: Path | bytes, name: str) -> DecodedFile:
    try:
        import pillow_heif
    except ImportError:
        raise SrcliError(f"{name} is a HEIC file. Install pillow-heif to read it: pip install pillow-heif.") from None
    try:
        file = pillow_heif.open_heif(
            io.BytesIO(source) if isinstance(source, bytes) else source, convert_hdr_to_8bit=False, bgr_mode=False
        )
        width, height = file.size
    except Exception as error:
        raise SrcliError(f"{name} cannot be read as HEIC ({error}). Get the file again.") from None

    def read(_: int) -> pyvips.Image:
        try:
            main = file[file.primary_index]
            pixels = np.asarray(main)
        except Exception as error:
            raise SrcliError(f"Cannot read {name} ({error}). Get the file again.") from None
        info: dict[str, Any] = main.info
        exif = info.get("exif") or b""
        exif = EXIF_START + exif.removeprefix(EXIF_START) if exif else None
        return with_fields(pixels, icc=info.get("icc_profile"), exif=exif, xmp=info.get("xmp"))

    return DecodedFile("heicload", width, height, 1, read)  # other images in the file are versions of the main one


def _open_jxl(source: Path | bytes, name: str) -> DecodedFile:
    try:
        import pillow_jxl
    except ImportError:
        raise SrcliError(f"{name} is a JPEG XL file. Install its plugin to read it: pip install pillow-jxl-plugin.") from None
    with open_binary(source) as file:
        data = file.read()
    header = header_of_jxl(data)
    if header is None:
        raise SrcliError(f"{name} cannot be read as JPEG XL: its header is damaged. Get the file again.")

    def decoded() -> np.ndarray:
        """Frames x H x W x C of an animation, H x W x C or H x W of an image. pillow_jxl reduces 16 bits to 8."""
        try:
            return imagecodecs.jpegxl_decode(data)
        except Exception as error:  # of types of its own
            raise SrcliError(f"{name} cannot be read as JPEG XL ({error}). Get the file again.") from None

    def read(frame: int) -> pyvips.Image:
        try:
            _, _, _, icc, boxes = pillow_jxl.Decoder(num_threads=1)(data)
        except Exception as error:  # as above
            raise SrcliError(f"{name} cannot be read as JPEG XL ({error}). Get the file again.") from None
        pixels = decoded()[frame - 1] if frames > 1 else decoded()
        if any(sign in icc for sign in _SRGB_OF_LIBJXL):
            icc = None
        found = {box.box_type: bytes(box.data) for box in boxes}
        exif = found.get(b"Exif", b"")[4:]  # after an offset, which is 0
        return with_fields(pixels, icc=icc, exif=EXIF_START + exif if exif else None, xmp=found.get(b"xml "))

    # the libraries give no delays, so frames are read one at a time
    shape = decoded().shape if header.animated else ()
    frames = shape[0] if set(shape[1:3]) == {header.width, header.height} else 1
    return DecodedFile("jxlload", header.width, header.height, frames, read)


def with_fields(
    pixels: np.ndarray,
    *,
    icc: bytes | None,
    exif: bytes | None = None,
    xmp: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> pyvips.Image:
    """An image in memory, H x W or H x W x C, with its metadata."""
    deep = pixels.dtype == np.uint16
    image = pyvips.Image.new_from_array(np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1)))
    gray = image.bands < 3
    image = image.copy(interpretation=("grey16" if deep else "b-w") if gray else "rgb16" if deep else "srgb")
    for field, value in {"icc-profile-data": icc, "xmp-data": xmp}.items():
        if value:
            image.set_type(pyvips.GValue.blob_type, field, value)
    for field, kind, value in fields_of_exif(exif) if exif else ():
        image.set_type(kind, field, value)
    if dpi and min(dpi) > 0:
        image = image.copy(xres=float(dpi[0]) / 25.4, yres=float(dpi[1]) / 25.4)
    image.set_type(pyvips.GValue.gint_type, "orientation", 1)  # the decoders turn images upright
    return image
