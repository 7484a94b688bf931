"""Files and pictures: the only room that knows formats, colour modes, bit depths, profiles, orientation and metadata.

Reading and writing is libvips' work, through pyvips: it keeps 16 bits, profiles and metadata in all formats, and its wheel
brings every codec along.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyvips

from srcli.errors import SettingsError, SrcliError
from srcli.files import written_whole

pyvips.cache_set_max(0)  # each picture is read once, so keeping it decoded would only take memory

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".avif")
"""What can be read and written."""

_SAVE: dict[str, dict[str, Any]] = {
    ".png": {"compression": 6},
    ".jpg": {"Q": 95, "optimize_coding": True, "subsample_mode": "off"},
    ".webp": {"Q": 95, "smart_subsample": True},
    ".tif": {"compression": "deflate", "predictor": "horizontal", "bigtiff": True},
    ".avif": {"Q": 90, "effort": 3, "compression": "av1", "subsample_mode": "off"},
}
_ALIASES = {".jpeg": ".jpg", ".tiff": ".tif"}
_LONGEST_SIDE = {".jpg": 65_535, ".webp": 16_383, ".avif": 16_384}
_DEEP = (".png", ".tif", ".avif")  # formats that hold more than 8 bits
_OPAQUE = (".jpg",)  # formats that hold no transparency
_STRUCTURE = {"width", "height", "bands", "format", "coding", "interpretation", "xoffset", "yoffset", "filename", "vips-loader"}
_NOT_KEPT = {"bits-per-sample", "palette", "jpeg-thumbnail-data", "orientation", "background", "page-height", "n-pages"}


@dataclass(frozen=True)
class Picture:
    """A picture in memory, upright.

    pixels: H x W x C; C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA), alpha not premultiplied; uint8 or uint16.
    metadata: colour profile, EXIF, XMP and resolution under libvips' names, with their types.
    """

    pixels: np.ndarray
    metadata: tuple[tuple[str, int, Any], ...] = ()

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def has_alpha(self) -> bool:
        return self.pixels.shape[2] in (2, 4)

    def with_pixels(self, pixels: np.ndarray) -> Picture:
        return replace(self, pixels=pixels)


def find_pictures(folder: Path, *, below: bool = True) -> list[Path]:
    """Every file in the folder, and `below` it, whose name ends as a picture's does; sorted, hidden ones left out.

    Raises SrcliError where there is none.
    """
    if not folder.is_dir():
        raise SrcliError(f"{folder} is no folder. Give a folder of pictures.")
    paths = sorted(
        path
        for path in (folder.rglob("*") if below else folder.iterdir())
        if path.suffix.lower() in EXTENSIONS
        and not path.is_dir()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not paths:
        raise SrcliError(f"{folder} holds no picture. Give a folder with files that end in {', '.join(EXTENSIONS)}.")
    return paths


def read_picture(path: str | Path) -> Picture:
    """A picture as it is in its file: its own depth, channels and colour profile. CMYK and Lab come as RGB.

    Raises SrcliError: missing, empty, damaged, cut short, several frames, or of a kind that has no faithful form here.
    """
    path = Path(path)
    try:
        image = _open(path)
        if image.interpretation == "cmyk":
            image = image.icc_transform("srgb", embedded=True, input_profile="cmyk", intent="relative")
        elif image.interpretation not in ("srgb", "rgb", "rgb16", "b-w", "grey16", "multiband"):
            image = image.colourspace("srgb")
        if image.format not in ("uchar", "ushort") or image.bands > 4:
            raise SrcliError(
                f"{path} has {image.bands} channels of type {image.format}; "
                "srcli takes up to 4 channels of 8 or 16 bits. Convert it first."
            )
        names = [name for name in image.get_fields() if name not in _STRUCTURE | _NOT_KEPT]
        metadata = tuple((name, image.get_typeof(name), image.get(name)) for name in names)
        pixels = image.numpy()
    except pyvips.Error as error:
        raise _unreadable(path, error) from None
    return Picture(pixels.reshape(image.height, image.width, image.bands), metadata)


def read_srgb(path: Path) -> np.ndarray:
    """A picture as H x W x 3 uint8 in sRGB: profiles converted, grey spread over three channels, alpha over white.

    Raises SrcliError as `read_picture` does.
    """
    pixels = read_exact_srgb(path, deep=False)
    if pixels.shape[2] == 3:
        return pixels
    colour, alpha = pixels[..., :3].astype(np.float32), pixels[..., 3:].astype(np.float32) / 255
    flat: np.ndarray = np.rint(colour * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return flat


def read_exact_srgb(path: Path, *, deep: bool = True, max_pixels: int | None = None) -> np.ndarray:
    """A picture as H x W x 3, or x 4 with alpha (not premultiplied), in sRGB: profiles converted, grey spread.

    deep: 16-bit pictures come as uint16; everything else, and all without it, as uint8.
    Raises SrcliError as `read_picture` does, and for more than `max_pixels` before any is decoded.
    """
    try:
        image = _open(path)
        if max_pixels is not None and image.width * image.height > max_pixels:
            raise SrcliError(
                f"{path} has {image.width}x{image.height} = {image.width * image.height} pixels, more than --max-pixels "
                f"{max_pixels}. Raise it if the picture is what you think."
            )
        if image.format not in ("uchar", "ushort"):
            raise SrcliError(f"{path} holds numbers of type {image.format}; srcli takes 8 or 16 bits. Convert it first.")
        deep = deep and image.format == "ushort"
        if "icc-profile-data" in image.get_fields() and image.interpretation != "lab":
            image = image.icc_transform(
                "srgb", embedded=True, intent="relative", black_point_compensation=True, depth=16 if deep else 8
            )
        image = image.colourspace("rgb16" if deep else "srgb")
        pixels: np.ndarray = image.cast("ushort" if deep else "uchar").numpy()
    except pyvips.Error as error:
        raise _unreadable(path, error) from None
    return pixels


def _open(path: Path) -> pyvips.Image:
    """The file as a lazy image, upright, without its orientation tag."""
    if path.is_dir():
        raise SrcliError(f"{path} is a folder, not a picture.")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise SrcliError(f"{path} is empty (0 bytes). Get the picture again from where it came.")
    except OSError as error:
        raise SrcliError(f"Cannot read {path}: {error.strerror}.") from None
    image = pyvips.Image.new_from_file(str(path), fail_on="error", revalidate=True)
    frames = image.get("n-pages") if "n-pages" in image.get_fields() else 1
    if frames > 1:
        raise SrcliError(f"{path} has {frames} frames or pages; srcli takes single pictures. Save the one you want by itself.")
    return image.autorot()


def _unreadable(path: Path, error: pyvips.Error) -> SrcliError:
    return SrcliError(
        f"{path} cannot be read as a picture ({_reason(error)}). Get it again, or save it anew in another program."
    )


def _reason(error: pyvips.Error) -> str:
    lines = [line.strip() for line in str(error.detail).splitlines() if line.strip()]
    return lines[-1] if lines else "no known format"


def check_target(path: Path, width: int, height: int) -> None:
    """Raises SrcliError where a picture of this size cannot be written under this name: format or its longest side."""
    extension = _extension(path)
    longest = _LONGEST_SIDE.get(extension, 2**31)
    if max(width, height) > longest:
        raise SrcliError(f"{path} would be {width}x{height} pixels; {extension} ends at {longest} a side. Write .png or .tif.")


def _extension(path: Path) -> str:
    extension = path.suffix.lower()
    extension = _ALIASES.get(extension, extension)
    if extension not in _SAVE:
        raise SettingsError(f"{path} has no ending that srcli can write; use one of {', '.join(EXTENSIONS)}.")
    return extension


def write_picture(picture: Picture, path: str | Path, *, overwrite: bool = False) -> list[str]:
    """Write the picture beside its place and rename it: whole or not at all. Gives back what the format could not hold.

    JPEG is written at quality 95, WebP at 95, AVIF at 90, PNG and TIFF without loss; 16 bits stay where the format has
    them; transparency in JPEG becomes white.
    Raises SrcliError: the file is there already and not to be overwritten, or the place cannot be written.
    """
    path = Path(path)
    extension = _extension(path)
    options = dict(_SAVE[extension])
    lost: list[str] = []
    image = pyvips.Image.new_from_array(np.ascontiguousarray(picture.pixels))
    deep = picture.pixels.dtype == np.uint16
    grey = picture.pixels.shape[2] <= 2
    image = image.copy(interpretation=("grey16" if grey else "rgb16") if deep else ("b-w" if grey else "srgb"))
    for name, kind, value in picture.metadata:
        image.set_type(kind, name, value)
    if any(name == "exif-data" for name, _, _ in picture.metadata):
        image.set_type(pyvips.GValue.gint_type, "orientation", 1)  # the pixels are upright now
        if extension == ".tif":
            lost.append("EXIF")
    if picture.has_alpha and extension in _OPAQUE:
        image = image.flatten(background=65_535 if deep else 255)
        lost.append("transparency, now white")
    if deep and extension not in _DEEP:
        # halves round up, so that 65535 and 0 stay white and black
        image = (image / 257 + 0.5).cast("uchar").copy(interpretation="b-w" if grey else "srgb")
        lost.append("16 bits, now 8")
    if extension == ".avif":
        options["bitdepth"] = 12 if deep else 8
    with written_whole(path, overwrite=overwrite) as part:
        try:
            image.write_to_file(str(part), **options)
        except pyvips.Error as error:
            raise SrcliError(f"Cannot write {path} ({_reason(error)}).") from None
    return lost
