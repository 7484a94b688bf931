"""Atomic writes: a file is complete, or it is not there. And locks on folders and files."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from srcli.errors import SrcliError

try:
    import fcntl
except ImportError:  # Windows, where files that are being written cannot be removed anyway
    fcntl = None  # type: ignore[assignment]

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.srcli-[0-9a-f]{8}\.part(?P<suffix>\.\w+)?")
_LONGEST_SUFFIX = 16


@contextmanager
def atomic_write(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a hidden temporary file next to `path`, and rename it to `path` if the block succeeds.

    Readers never see an incomplete file, and an existing file stays until the new one is complete, even after a power failure.
    The temporary file is locked, so `remove_stale_temp_files` of another process leaves it alone. A symbolic link stays, and
    the file that it leads to is replaced. A pipe or device is written to, after the block.
    Raises SrcliError if `path` exists and `overwrite` is false, or if it cannot be written.
    """
    try:
        if _is_special(path):
            with tempfile.TemporaryDirectory() as scratch:
                yield (complete := Path(scratch, path.name))
                _copy_into(complete, path)
            return
        if overwrite and path.is_symlink():
            path = path.resolve()
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


def write_text(path: Path, text: str, *, overwrite: bool = True) -> None:
    """Write text atomically, in UTF-8. Names of files that are not in UTF-8 get escapes."""
    with atomic_write(path, overwrite=overwrite) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Raise before the work what `atomic_write` would raise after it. Creates the folder if necessary."""
    try:
        if path.is_dir():
            raise SrcliError(f"{path} is a folder. Give the name of a file.")
        if _is_special(path):
            return
        if exists(path) and not overwrite:
            raise FileExistsError
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, lock = _create_temporary(path)
    except OSError as error:
        raise _cannot_write(path, error) from None
    temporary.unlink()
    if lock is not None:
        os.close(lock)
    remove_stale_temp_files([path])


def exists(path: Path) -> bool:
    """Whether there is a file, folder or symbolic link of this name, even one that leads nowhere.

    Unlike `Path.exists`, raises OSError for a path that cannot be used: too long, or in a folder that cannot be searched.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def remove_stale_temp_files(paths: Iterable[Path]) -> None:
    """Remove temporary files that killed processes left next to these paths. Files that are being written stay."""
    if fcntl is None:
        return
    names: dict[Path, set[str]] = {}
    for path in paths:
        names.setdefault(path.parent, set()).add(_short_stem(path))
    for folder, stems in names.items():
        _remove_stale(folder, lambda stem, stems=stems: stem in stems)  # type: ignore[misc]


def remove_all_stale_temp_files(folder: Path) -> None:
    """Like `remove_stale_temp_files`, for all files in a folder of srcli's."""
    if fcntl is not None:
        _remove_stale(folder, lambda _: True)


@contextmanager
def path_lock(path: Path) -> Iterator[bool]:
    """Lock a folder or a file during the block. Yields False if another process holds the lock; that of a killed one is free.

    Yields True where locks are not supported (Windows, some network file systems).
    """
    if fcntl is None:
        yield True
        return
    lock = os.open(path, os.O_RDONLY)
    try:
        yield _locked(lock)
    finally:
        os.close(lock)


def _cannot_write(path: Path, error: OSError) -> SrcliError:
    if isinstance(error, FileExistsError) and os.path.lexists(path):
        return SrcliError(f"{path} already exists. Use `overwrite` to replace it, or choose another name.")
    if isinstance(error, FileExistsError):  # from creating the folder
        return SrcliError(f"Cannot write {path}: its folder is a file.")
    return SrcliError(f"Cannot write {path}: {error.strerror}.")


def _create_temporary(path: Path) -> tuple[Path, int | None]:
    """A new empty hidden file next to the path, and a descriptor that holds its lock."""
    while True:
        suffix = path.suffix if len(path.suffix) <= _LONGEST_SUFFIX else ""
        temporary = path.with_name(f".{_short_stem(path)}.srcli-{secrets.token_hex(4)}.part{suffix}")
        lock = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if fcntl is None:
            os.close(lock)  # Windows cannot rename an open file
            return temporary, None
        if _locked(lock) and os.fstat(lock).st_nlink:
            return temporary, lock
        os.close(lock)  # another process removed it as stale before it was locked


def _is_special(path: Path) -> bool:
    """Whether it is a pipe or a device, such as /dev/null, or a link to one."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _copy_into(file: Path, special: Path) -> None:
    """Write the file's content to a pipe or device. Raises OSError if it is a pipe that no program reads."""
    target = os.open(special, os.O_WRONLY | os.O_NONBLOCK)  # otherwise opening waits until a program reads
    os.set_blocking(target, True)
    with file.open("rb") as source, os.fdopen(target, "wb") as stream:
        shutil.copyfileobj(source, stream)


def _locked(lock: int) -> bool:
    """Lock an open file. False if another process has locked it. True if the file system has no locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _remove_stale(folder: Path, wanted: Callable[[str], bool]) -> None:
    with suppress(OSError):  # the folder does not exist or belongs to someone else
        for entry in os.scandir(folder):
            match = _TEMPORARY.fullmatch(entry.name)
            if match and wanted(match["name"]) and entry.is_file(follow_symlinks=False):
                _remove_unlocked(Path(entry.path))


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
        if exists(path):
            raise FileExistsError(path) from None
        temporary.rename(path)
