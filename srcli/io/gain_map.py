"""Gain maps of Ultra HDR JPEG files: a second, smaller image that brightens the main one on HDR screens, at any resolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyvips

GAIN_MAP = "gain map"
_DATA = "gainmap-data"


def read_gain_map(source: Path | bytes, orientation: int) -> dict[str, tuple[int, Any]]:
    """libvips' fields of the gain map of a JPEG, upright. Empty if it is of another kind than Ultra HDR, or damaged."""
    try:
        image = pyvips.Image.uhdrload_buffer(source if isinstance(source, bytes) else source.read_bytes())
        fields = {name: (image.get_typeof(name), image.get(name)) for name in image.get_fields() if name.startswith("gainmap-")}
        if orientation != 1 and _DATA in fields:
            kind, data = fields[_DATA]
            turned = pyvips.Image.new_from_buffer(data, "").copy()
            turned.set_type(pyvips.GValue.gint_type, "orientation", orientation)
            fields[_DATA] = kind, turned.autorot().jpegsave_buffer(Q=95, subsample_mode="off", keep="none")
    except pyvips.Error:
        return {}
    return fields if _DATA in fields else {}
