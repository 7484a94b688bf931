"""Files on any storage that fsspec opens: local files, s3://, gs://, hdfs:// and others."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from srcli.errors import SrcliError
from srcli.io.discover import image_like
from srcli.io.formats import EXTENSIONS

WHOLE_ON_CLOSE = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}
"""Object stores: an object appears when its upload is complete, and not before."""

PAGE = 1000
"""Names that S3 lists at a time, at most as many as it allows."""


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
    """The images that a path or URL names: one file, or those in a folder, in any order, while they are listed.

    Hidden files and folders are left out. Local folders and S3 are read piece by piece, and other storage folder by folder.
    Raises SrcliError if there is nothing, or if it cannot be read.
    """
    path = local_path(given)
    try:
        yield from _local(path, recursive) if path is not None else _remote(given, recursive)
    except FileNotFoundError:
        raise SrcliError(f"{given} does not exist, or cannot be read. Check the name and the access rights.") from None
    except OSError as error:
        raise SrcliError(f"Cannot read {given}: {error.strerror or error}.") from None


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
    path = local_path(url)
    try:
        if path is not None:
            return path.stat().st_size
        files, remote = _open(url)
        files.invalidate_cache()
        return int(files.info(remote)["size"])
    except FileNotFoundError:
        return None


def names_below(url: str) -> list[str]:
    """The paths of all files below a folder, relative to it; none if there is no such folder."""
    files, root = _open(url)
    files.invalidate_cache()
    names = [PurePosixPath(name[len(root) :].lstrip("/")) for name in files.find(root)]
    return [name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts)]


def _local(path: Path, recursive: bool) -> Iterator[Entry]:
    if not path.is_dir():
        yield Entry(str(path), path.name, path.stat().st_size)
        return

    def unreadable(_: Path, error: OSError) -> None:
        raise error

    for image in image_like(path, recursive=recursive, on_error=unreadable):
        size = 0
        with suppress(OSError):  # reported when it is read
            size = image.stat().st_size
        yield Entry(str(image), image.relative_to(path).as_posix(), size)


def _remote(given: str, recursive: bool) -> Iterator[Entry]:
    files, root = _open(given)
    about = files.info(root)
    if about["type"] != "directory":
        yield Entry(given, root.rsplit("/", 1)[-1], about["size"] or 0)
        return
    listed = _pages_of_s3 if hasattr(files, "call_s3") else _folders
    for name, size in listed(files, root, recursive):
        below = PurePosixPath(name[len(root) :].lstrip("/"))
        if below.suffix.lower() in EXTENSIONS and not any(part.startswith(".") for part in below.parts):
            yield Entry(str(files.unstrip_protocol(name)), below.as_posix(), size or 0)


def _pages_of_s3(files: Any, root: str, recursive: bool) -> Iterator[tuple[str, int]]:
    """Names and sizes below a folder, one page after another: fsspec itself lists a folder as a whole."""
    bucket, _, key = root.partition("/")
    asked = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "MaxKeys": PAGE} | ({} if recursive else {"Delimiter": "/"})
    while True:
        page = files.call_s3("list_objects_v2", files.req_kw, **asked)
        for each in page.get("Contents", ()):
            yield f"{bucket}/{each['Key']}", each["Size"]
        if not page.get("IsTruncated"):
            return
        asked["ContinuationToken"] = page["NextContinuationToken"]


def _folders(files: Any, root: str, recursive: bool) -> Iterator[tuple[str, int]]:
    """Names and sizes below a folder, one folder after another."""

    def unreadable(error: OSError) -> None:
        raise error

    for folder, _, found in files.walk(root, maxdepth=None if recursive else 1, detail=True, on_error=unreadable):
        for name, about in found.items():
            yield f"{folder.rstrip('/')}/{name}", about["size"]


def _open(url: str) -> tuple[Any, str]:
    try:
        import fsspec

        files, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise SrcliError(f"Cannot open {url}: {error}.") from None
    return files, path


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)
