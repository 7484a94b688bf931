"""Opening files, or bytes in memory, as the readers of `srcli.io` get both."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO


def open_binary(source: Path | bytes) -> IO[bytes]:
    """A file, or bytes in memory, open for reading."""
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
