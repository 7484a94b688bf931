"""Opening files, or bytes in memory, as the readers of `srcli.io` get both; the dates of files; and the cache folder."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import IO


def open_binary(source: Path | bytes) -> IO[bytes]:
    """A file, or bytes in memory, open for reading."""
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def user_cache() -> Path:
    """srcli's folder in the user's cache folder."""
    from platformdirs import user_cache_path

    return user_cache_path("srcli")


def copy_dates(source: Path, target: Path) -> None:
    """Give a file the dates of access and modification of another."""
    status = source.stat()
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
