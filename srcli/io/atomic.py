"""Atomic writes: a file is complete, or it is not there. And locks on folders."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from srcli.errors import SrcliError

try:
    import fcntl
except ImportError:  # Windows, where files that are being written cannot be removed anyway
    fcntl = None  # type: ignore[assignment]

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.part(?P<suffix>\.\w+)?")


@contextmanager
def atomic_write(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a hidden temporary file next to `path`, and rename it to `path` if the block succeeds.

    Readers never see an incomplete file, and an existing file stays until the new one is complete, even after a power failure.
    The temporary file is locked, so `remove_stale_temp_files` of another process leaves it alone.
    Raises SrcliError if `path` exists and `overwrite` is false, or if it cannot be written.
    """
    temporary = path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, lock = _create_temporary(path)
        try:
            mode = temporary.stat().st_mode & 0o777
            yield temporary
            temporary.chmod(mode)  # some writers create files that only their owner may read
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            if overwrite:
                temporary.replace(path)
            else:
                _rename_if_free(temporary, path)
        finally:
            with suppress(OSError):  # after a success it is gone
                temporary.unlink()
            if lock is not None:
                os.close(lock)
    except OSError as error:
        raise _cannot_write(path, error) from None


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Raise before the work what `atomic_write` would raise after it. Creates the folder if necessary."""
    if path.is_dir():
        raise SrcliError(f"{path} is a folder. Give the name of a file.")
    if path.exists() and not overwrite:
        raise _cannot_write(path, FileExistsError())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, lock = _create_temporary(path)
    except OSError as error:
        raise _cannot_write(path, error) from None
    temporary.unlink()
    if lock is not None:
        os.close(lock)


def remove_stale_temp_files(paths: Iterable[Path]) -> None:
    """Remove temporary files that killed processes left next to these paths. Files that are being written stay."""
    if fcntl is None:
        return
    names: dict[Path, set[str]] = {}
    for path in paths:
        names.setdefault(path.parent, set()).add(_short_stem(path))
    for folder, stems in names.items():
        with suppress(OSError):  # the folder does not exist or belongs to someone else
            for entry in os.scandir(folder):
                match = _TEMPORARY.fullmatch(entry.name)
                if match and match["name"] in stems and entry.is_file(follow_symlinks=False):
                    _remove_unlocked(Path(entry.path))


@contextmanager
def directory_lock(folder: Path) -> Iterator[bool]:
    """Lock a folder during the block. Yields False if another process holds the lock; the lock of a killed process is released.

    Yields True where locks are not supported (Windows, some network file systems).
    """
    if fcntl is None:
        yield True
        return
    lock = os.open(folder, os.O_RDONLY)
    try:
        yield _locked(lock)
    finally:
        os.close(lock)


def _cannot_write(path: Path, error: OSError) -> SrcliError:
    if isinstance(error, FileExistsError) and path.exists():
        return SrcliError(f"{path} already exists. Use `overwrite` to replace it, or choose another name.")
    if isinstance(error, FileExistsError):  # from creating the folder
        return SrcliError(f"Cannot write {path}: its folder is a file.")
    return SrcliError(f"Cannot write {path}: {error.strerror}.")


def _create_temporary(path: Path) -> tuple[Path, int | None]:
    """A new empty hidden file next to the path, and a descriptor that holds its lock."""
    while True:
        temporary = path.with_name(f".{_short_stem(path)}.{secrets.token_hex(4)}.part{path.suffix}")
        lock = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if fcntl is None:
            os.close(lock)  # Windows cannot rename an open file
            return temporary, None
        if _locked(lock) and os.fstat(lock).st_nlink:
            return temporary, lock
        os.close(lock)  # another process removed it as stale before it was locked


def _locked(lock: int) -> bool:
    """Lock an open file. False if another process has locked it. True if the file system has no locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _remove_unlocked(temporary: Path) -> None:
    with suppress(OSError):
        lock = os.open(temporary, os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if another process is writing the file
            temporary.unlink()
        finally:
            os.close(lock)


def _short_stem(path: Path) -> str:
    """The stem, cut so that the hidden name is not too long for a file system."""
    return os.fsdecode(os.fsencode(path.stem)[:200]).encode("utf-8", "ignore").decode()


def _rename_if_free(temporary: Path, path: Path) -> None:
    """Rename without ever replacing a file. Where the file system has hard links, this is one atomic operation."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        if path.exists():
            raise FileExistsError(path) from None
        temporary.rename(path)
