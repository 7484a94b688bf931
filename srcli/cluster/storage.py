"""Images on any storage that fsspec opens: local files, s3://, gs://, hdfs:// and others."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srcli.errors import SrcliError
from srcli.io.formats import EXTENSIONS

WHOLE_ON_CLOSE = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}
"""Object stores: an object appears when its upload is complete, and not before."""


@dataclass(frozen=True)
class Entry:
    """An image: its path or URL, its path below the input, and its size in bytes."""

    url: str
    below: str
    bytes: int


def is_url(name: str) -> bool:
    return "://" in name


def local_path(name: str) -> Path | None:
    """The path of a local file; None for other storage."""
    if name.startswith("file://"):
        return Path(name.removeprefix("file://"))
    return None if is_url(name) else Path(name)


def list_images(given: str, *, recursive: bool) -> Iterator[Entry]:
    """The images that a path or URL names: one file, or those in a folder, folder by folder while they are listed.

    Hidden files and folders are left out. Raises SrcliError if there is nothing, or if it cannot be read.
    """
    files, root = _open(given)
    try:
        about = files.info(root)
    except OSError:
        raise SrcliError(f"{given} does not exist, or cannot be read. Check the name and the access rights.") from None
    if about["type"] != "directory":
        yield Entry(_name(given, files, root), root.rsplit("/", 1)[-1], about["size"])
        return

    def unreadable(error: OSError) -> None:
        raise SrcliError(f"Cannot read {given}: {error}.")

    for folder, folders, found in files.walk(root, maxdepth=None if recursive else 1, detail=True, on_error=unreadable):
        for hidden in [name for name in folders if name.startswith(".")]:
            del folders[hidden]  # and does not descend into it
        for name in sorted(found):
            if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS:
                path = f"{folder.rstrip('/')}/{name}"
                yield Entry(_name(given, files, path), path[len(root) :].lstrip("/"), found[name]["size"])


def fetch(url: str, path: Path) -> None:
    """Copy a file from storage to a local path."""
    files, source = _open(url)
    files.get_file(source, str(path))


def store(path: Path, url: str) -> None:
    """Copy a local file to storage. It appears there whole, or not at all."""
    files, target = _open(url)
    parent = target.rsplit("/", 1)[0]
    if WHOLE_ON_CLOSE & set(_protocols(files)):
        files.put_file(str(path), target)
        return
    files.makedirs(parent, exist_ok=True)
    temporary = f"{parent}/.{secrets.token_hex(4)}.part"
    try:
        files.put_file(str(path), temporary)
        files.mv(temporary, target)
    except BaseException:
        with suppress(OSError):
            files.rm_file(temporary)
        raise


def size_of(url: str) -> int | None:
    """The size of a file in bytes; None if there is none."""
    files, path = _open(url)
    files.invalidate_cache()
    try:
        return int(files.info(path)["size"])
    except FileNotFoundError:
        return None


def _open(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise SrcliError(f"Cannot open {url}: {error}.") from None
    return files, path


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


def _name(given: str, files: Any, path: str) -> str:
    return str(files.unstrip_protocol(path)) if is_url(given) else path
