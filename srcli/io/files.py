"""Opening files, or bytes in memory, as the readers of `srcli.io` get both, and the dates of files."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import IO


def open_binary(source: Path | bytes) -> IO[bytes]:
    """A file, or bytes in memory, open for reading."""
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def copy_dates(source: Path, target: Path) -> None:
    """Give a file the dates of access and modification of another."""
    status = source.stat()
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
