"""Animated PNG and AVIF sequences, which libvips reads as single images or not at all. Pillow reads their frames."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pyvips
from PIL.AvifImagePlugin import AvifImageFile
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile

from srcli.errors import SrcliError
from srcli.io.metadata import open_binary


def open_animation(source: Path | bytes) -> ImageFile | None:
    """The file, open in Pillow, if it is an animated PNG or an AVIF sequence."""
    with open_binary(source) as file:
        start = file.read(12)
    kind = PngImageFile if start[:4] == b"\x89PNG" else AvifImageFile if start[4:] == b"ftypavis" else None
    if kind is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            animation: ImageFile = kind(io.BytesIO(source) if isinstance(source, bytes) else source)
    except Exception:  # Pillow raises errors of many types for damaged files; libvips reports them
        return None
    if getattr(animation, "n_frames", 1) > 1:
        return animation
    animation.close()
    return None


def read_frame(name: str, animation: ImageFile, frame: int) -> pyvips.Image:
    """A frame, counted from 1. Raises SrcliError if it cannot be decoded."""
    try:
        animation.seek(frame - 1)
        mode = animation.mode if animation.mode in ("L", "LA", "RGB", "RGBA") else "RGBA"
        pixels = np.asarray(animation.convert(mode))
    except Exception as error:  # as above
        raise SrcliError(f"Cannot read frame {frame} of {name} ({error}). Get the file again.") from None
    image = pyvips.Image.new_from_array(pixels.reshape(*pixels.shape[:2], -1))
    image = image.copy(interpretation="b-w" if image.bands < 3 else "srgb")
    profile = animation.info.get("icc_profile")
    if profile:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    return image
