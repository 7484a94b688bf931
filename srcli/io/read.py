"""Files in, images out: whole, or row by row."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyvips
from PIL.AvifImagePlugin import AvifImageFile
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile

from srcli.errors import SrcliError
from srcli.io.discover import EXTENSIONS
from srcli.io.exif import exif_of_tiff, fields_of_exif
from srcli.io.image import Image, Metadata
from srcli.io.png_text import TEXTS, texts_of_png

pyvips.cache_set_max(0)  # each image is read once, so keeping it decoded would only take memory

_STRUCTURE = {"width", "height", "bands", "format", "coding", "interpretation", "xoffset", "yoffset", "filename", "vips-loader"}
_NOT_KEPT = {
    *("bits-per-sample", "palette", "jpeg-thumbnail-data", "jpeg-multiscan", "jpeg-chroma-subsample", "orientation"),
    *("background", "page-height", "n-pages", "loop", "delay", "gif-delay", "gif-loop", "interlaced", "gainmap-data"),
}
_TURNED = (3, 4, 5, 6, 7, 8)  # orientations for which the last row may be wanted first
_NAMES_A_IMAGE = re.compile(rf"({'|'.join(map(re.escape, EXTENSIONS))})\b", re.IGNORECASE)
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)[2-8]")


class ImageReader:
    """An image in its file: its size, kind and metadata, and its rows from top to bottom, upright.

    width, height: pixels. channels: 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGBA), alpha not premultiplied. dtype: uint8 or
    uint16. loader: which format it is, as libvips' loader's name (pngload, jpegload, ...). image: libvips' own form of it, for
    this room; it may be read once from top to bottom, as the rows are. damage: what is wrong with the rows read so far, where
    they can be read all the same; None where nothing is, or nobody looked. patient: opens the file again, not looking.
    """

    def __init__(
        self,
        image: pyvips.Image,
        name: str,
        metadata: Metadata,
        loader: str,
        patient: Callable[[], ImageReader] | None = None,
    ) -> None:
        self.name = name
        self.width, self.height, self.channels = int(image.width), int(image.height), int(image.bands)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8 if image.format == "uchar" else np.uint16)
        self.metadata = metadata
        self.loader = loader
        self.image = image  # which holds the bytes that it may have been made from
        self.damage: str | None = None
        self._patient = patient
        self._region = pyvips.Region.new(image)
        self._done = 0

    def read(self, count: int) -> np.ndarray:
        """The next rows, `count` of them or as many as there are: n x W x C.

        Raises SrcliError where the file is damaged or ends too early.
        """
        count = min(count, self.height - self._done)
        try:
            data = self._region.fetch(0, self._done, self.width, count) if count else b""
        except pyvips.Error as error:
            if self._patient is None:
                raise _unreadable(self.name, error) from None
            self.damage = reason(error, self.name)
            self.image, self._patient = self._patient().image, None
            self._region = pyvips.Region.new(self.image)
            return self.read(count)
        self._done += count
        return np.frombuffer(data, dtype=self.dtype).reshape(count, self.width, self.channels)

    @property
    def profile(self) -> bytes | None:
        return next((value for name, _, value in self.metadata if name == "icc-profile-data"), None)


def open_image(
    source: Path | bytes,
    *,
    frame: int | None = None,
    max_pixels: int | None = None,
    srgb: bool = False,
    find_damage: bool = False,
) -> ImageReader:
    """An image as it is in its file, or in the bytes of one: its own depth, channels and color profile.

    CMYK and Lab come as RGB in sRGB; with `srgb` all do, and without metadata. frame: which one of an animation or of several
    pages, from 1. Rows are decoded as they are read, but for images that must be turned, interlaced PNG, WebP and AVIF.
    find_damage: a JPEG's decoder makes up what is missing in the middle; with this, `ImageReader.damage` tells of it.

    Raises SrcliError: missing, empty, damaged, more than `max_pixels`, several frames and none asked for, or of a kind that
    has no faithful form here.
    """

    def opened(fail_on: str, patient: Callable[[], ImageReader] | None = None) -> ImageReader:
        return _opened(source, frame, max_pixels, srgb=srgb, fail_on=fail_on, patient=patient)

    if not (find_damage and _is_jpeg(source)):  # others' decoders find it themselves, or cannot
        return opened("error")
    try:
        return opened("warning", patient=lambda: opened("error"))
    except SrcliError:  # one that can be opened and speaks of damage, or another reason
        return opened("error")


def _opened(
    source: Path | bytes,
    frame: int | None,
    max_pixels: int | None,
    *,
    srgb: bool,
    fail_on: str,
    patient: Callable[[], ImageReader] | None,
) -> ImageReader:
    """fail_on: what libvips takes for a failure, `error` or `warning`."""
    name = "stdin" if isinstance(source, bytes) else str(source)
    try:
        image, frames = _open(source, frame, max_pixels, fail_on)
        loader = str(image.get("vips-loader")) if image.get_typeof("vips-loader") else "pngload"
        if frames > 1 and frame is None:
            raise SrcliError(f"{name} has {frames} frames or pages; say which one with --frame, as in --frame 1.")
        if image.format not in ("uchar", "ushort"):
            raise SrcliError(
                f"{name} has {image.bands} channels of type {image.format}, whose white has no fixed number; "
                "srcli takes up to 4 channels of 8 or 16 bits. Convert it first."
            )
        metadata = () if srgb else _metadata(source, image)
        upright = image.autorot() if _orientation(image) != 1 else image
        upright = _with_usual_colors(upright, srgb=srgb)
        if upright.interpretation != image.interpretation and image.interpretation in ("cmyk", "lab", "labs"):
            metadata = _as_srgb(metadata, upright)
        if upright.bands > 4:
            raise SrcliError(f"{name} has {image.bands} channels; srcli takes up to 4. Convert it first.")
        return ImageReader(upright, name, metadata, loader, patient)
    except pyvips.Error as error:
        raise _unreadable(name, error) from None


def _is_jpeg(source: Path | bytes) -> bool:
    _check_there(source)
    with _stream(source) as file:
        return file.read(3) == b"\xff\xd8\xff"


def read_image(path: str | Path, *, frame: int | None = None) -> Image:
    """An image as it is in its file: its own depth, channels and color profile. CMYK and Lab come as RGB.

    Raises SrcliError: missing, empty, damaged, cut short, several frames, or of a kind that has no faithful form here.
    """
    file = open_image(Path(path), frame=frame)
    return Image(file.read(file.height), file.metadata)


def is_whole(path: Path, width: int, height: int) -> bool | None:
    """Whether all of an image can be read: None where it is whole but of another size."""
    try:
        file = open_image(path, find_damage=True)
        while len(file.read(256)):
            pass
        if file.damage:
            return False
        if file.loader.startswith("png") and not _has_png_end(path):
            return False  # all pixels are there, but not the end
    except SrcliError:
        return False
    return True if (file.width, file.height) == (width, height) else None


def _has_png_end(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2**16))  # some programs write more behind it
        return b"IEND\xaeB`\x82" in file.read()


def read_srgb(path: Path) -> np.ndarray:
    """An image as H x W x 3 uint8 in sRGB: profiles converted, gray spread over three channels, alpha over white.

    Raises SrcliError as `read_image` does.
    """
    pixels = read_exact_srgb(path, deep=False)
    if pixels.shape[2] == 3:
        return pixels
    color, alpha = pixels[..., :3].astype(np.float32), pixels[..., 3:].astype(np.float32) / 255
    flat: np.ndarray = np.rint(color * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return flat


def read_exact_srgb(path: Path, *, deep: bool = True, max_pixels: int | None = None) -> np.ndarray:
    """An image as H x W x 3, or x 4 with alpha (not premultiplied), in sRGB: profiles converted, gray spread.

    deep: 16-bit images come as uint16; everything else, and all without it, as uint8.
    Raises SrcliError as `read_image` does, and for more than `max_pixels` before any is decoded.
    """
    try:
        image, frames = _open(path, None, max_pixels)
        if frames > 1:
            raise SrcliError(f"{path} has {frames} frames or pages; save the one you want by itself.")
        if image.format not in ("uchar", "ushort"):
            raise SrcliError(f"{path} holds numbers of type {image.format}; srcli takes 8 or 16 bits. Convert it first.")
        deep = deep and image.format == "ushort"
        image = image.autorot()
        if image.get_typeof("icc-profile-data") and image.interpretation != "lab":
            image = image.icc_transform(
                "srgb", embedded=True, intent="relative", black_point_compensation=True, depth=16 if deep else 8
            )
        image = image.colourspace("rgb16" if deep else "srgb")
        pixels: np.ndarray = image.cast("ushort" if deep else "uchar").numpy()
    except pyvips.Error as error:
        raise _unreadable(str(path), error) from None
    return pixels


def _open(source: Path | bytes, frame: int | None, max_pixels: int | None, fail_on: str = "error") -> tuple[pyvips.Image, int]:
    """The file as a lazy image as it lies there, and its number of frames; `frame` of them where one is asked for."""
    _check_there(source)
    name = "stdin" if isinstance(source, bytes) else str(source)
    other = _animation(source)  # what libvips would take for a single image, or not know at all
    if other:
        with other:
            frames = getattr(other, "n_frames", 1)
            _check_frame(name, frames, frame)
            _check_pixels(name, other.width, other.height, max_pixels)
            return (_frame_of(name, other, frame) if frame else pyvips.Image.black(other.width, other.height)), frames
    image = _load(source, fail_on=fail_on)
    frames = image.get("n-pages") if image.get_typeof("n-pages") else 1
    _check_frame(name, frames, frame)
    _check_pixels(name, image.width, image.height, max_pixels)
    page = {} if frame is None or frames == 1 else {"page": frame - 1}
    # in order, so that little of the image is in memory; turned ones wait decoded, in a file where they are large
    access = "random" if _orientation(image) in _TURNED else "sequential"
    return _load(source, fail_on=fail_on, access=access, **page), frames


def _load(source: Path | bytes, **options: Any) -> pyvips.Image:
    if isinstance(source, bytes):
        return pyvips.Image.new_from_buffer(source, "", **options)
    return pyvips.Image.new_from_file(str(source), revalidate=True, **options)


def _check_there(source: Path | bytes) -> None:
    if isinstance(source, bytes):
        if not source:
            raise SrcliError("stdin is empty (0 bytes). Pipe an image into srcli.")
        return
    if source.is_dir():
        raise SrcliError(f"{source} is a folder, not an image.")
    if source.exists() and not source.is_file():  # opening a pipe would wait for somebody to write to it
        raise SrcliError(f"{source} is no regular file. Pipe it into srcli, with - as the input.")
    try:
        with source.open("rb") as file:
            if not file.read(1):
                raise SrcliError(f"{source} is empty (0 bytes). Get the image again from where it came.")
    except OSError as error:
        raise SrcliError(f"Cannot read {source}: {error.strerror}.") from None


def _check_pixels(name: str, width: int, height: int, most: int | None) -> None:
    if most is not None and width * height > most:
        raise SrcliError(
            f"{name} has {width}x{height} = {width * height} pixels, more than --max-pixels "
            f"{most}. Raise it if the image is what you think."
        )


def _check_frame(name: str, frames: int, frame: int | None) -> None:
    if frame is not None and not 1 <= frame <= frames:
        raise SrcliError(f"{name} has {frames} frame{'s' if frames > 1 else ''}; --frame {frame} is none of them.")


def _animation(source: Path | bytes) -> ImageFile | None:
    """The file open in Pillow where it is an animated PNG or an AVIF sequence."""
    with _stream(source) as file:
        start = file.read(12)
    kind = PngImageFile if start[:4] == b"\x89PNG" else AvifImageFile if start[4:] == b"ftypavis" else None
    if kind is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            animation: ImageFile = kind(io.BytesIO(source) if isinstance(source, bytes) else source)
    except Exception:  # Pillow raises whatever the bytes lead it to; libvips has the last word on such a file
        return None
    if getattr(animation, "n_frames", 1) > 1:
        return animation
    animation.close()
    return None


def _frame_of(name: str, animation: ImageFile, frame: int) -> pyvips.Image:
    try:
        animation.seek(frame - 1)
        mode = animation.mode if animation.mode in ("L", "LA", "RGB", "RGBA") else "RGBA"
        pixels = np.asarray(animation.convert(mode))
    except Exception as error:  # as above, and here there is nobody else to ask
        raise SrcliError(f"Frame {frame} of {name} cannot be read ({error}). Get the file again.") from None
    image = pyvips.Image.new_from_array(pixels.reshape(*pixels.shape[:2], -1))
    image = image.copy(interpretation="b-w" if image.bands < 3 else "srgb")
    profile = animation.info.get("icc_profile")
    if profile:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    return image


def _stream(source: Path | bytes) -> IO[bytes]:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _orientation(image: pyvips.Image) -> int:
    return int(image.get("orientation")) if image.get_typeof("orientation") else 1


def _with_usual_colors(image: pyvips.Image, *, srgb: bool) -> pyvips.Image:
    """RGB or gray in place of CMYK and Lab; with `srgb`, in place of whatever the profile says."""
    deep = image.format == "ushort"
    convert = {"intent": "relative", "black_point_compensation": True, "embedded": True, "depth": 16 if deep else 8}
    if image.interpretation == "cmyk":
        return image.icc_transform("srgb", input_profile="cmyk", **convert)
    if image.interpretation in ("lab", "labs", "labq"):
        return image.colourspace("rgb16" if image.interpretation == "labs" else "srgb")
    if srgb and image.get_typeof("icc-profile-data"):
        alone = image.bands < 3
        try:
            image = image.icc_transform("srgb", **convert)
        except pyvips.Error:
            return image  # a profile that is none, or for another kind of image: shown without it everywhere
        # a gray has three equal channels in sRGB
        return image[1:] if alone and image.bands == 4 else image[1] if alone else image
    return image


def _metadata(source: Path | bytes, image: pyvips.Image) -> Metadata:
    """What is said about the image, now that it is upright."""
    fields = _fields(image)
    if (image.xres, image.yres) == (1, 1):  # libvips' word for unknown; written as such it would mean 25.4 dpi
        fields.pop("xres", None)
        fields.pop("yres", None)
    if "exif-data" not in fields and image.get_typeof("vips-loader") and str(image.get("vips-loader")).startswith("tiff"):
        with _stream(source) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            block = exif_of_tiff(file)
            if block:
                resolution = {name: fields[name] for name in ("xres", "yres", "resolution-unit") if name in fields}
                fields |= {name: (kind, value) for name, kind, value in fields_of_exif(block)} | resolution
    if "xmp-data" in fields:
        kind, xmp = fields["xmp-data"]
        fields["xmp-data"] = kind, _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)
    with _stream(source) as file:
        texts = texts_of_png(file)
    if texts:
        fields[TEXTS] = pyvips.GValue.blob_type, texts
    return tuple((name, kind, value) for name, (kind, value) in fields.items())


def _fields(image: pyvips.Image) -> dict[str, tuple[int, Any]]:
    """Type and value of what is worth keeping, by libvips' name."""
    fields: dict[str, tuple[int, Any]] = {}
    try:
        names = image.get_fields()
    except UnicodeDecodeError:  # pyvips takes no other names than UTF-8, and only damaged files have them
        return fields
    for name in names:
        if name in _STRUCTURE | _NOT_KEPT or name.startswith(("exif-ifd1", "heif", "png-comment")):
            continue
        try:
            value = image.get(name)
        except UnicodeDecodeError:
            continue
        fields[name] = image.get_typeof(name), value
    return fields


def _as_srgb(metadata: Metadata, image: pyvips.Image) -> Metadata:
    """The profile of the pixels as they are now in the place of what the file had."""
    kept = tuple(field for field in metadata if field[0] != "icc-profile-data")
    if not image.get_typeof("icc-profile-data"):
        return kept
    return (*kept, ("icc-profile-data", pyvips.GValue.blob_type, image.get("icc-profile-data")))


def _unreadable(name: str, error: pyvips.Error) -> SrcliError:
    return SrcliError(
        f"{name} cannot be read as an image ({reason(error, name)}). Get it again, or save it anew in another program."
    )


def reason(error: pyvips.Error, name: str) -> str:
    """The last line of what libvips said of the image of that name.

    It gathers what it says in one place for all threads, so lines that name another image are left out.
    """
    lines = [line.strip() for line in str(error.detail).splitlines() if line.strip()]
    of_it = [line for line in lines if name in line or not _NAMES_A_IMAGE.search(line)]
    return of_it[-1] if of_it else "no known format"
