"""Files that are whole or not there."""

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
except ImportError:  # Windows, where nobody can remove a file that is being written
    fcntl = None  # type: ignore[assignment]

_PART = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.part(?P<suffix>\.\w+)?")


@contextmanager
def atomic_write(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Gives a hidden name beside `path` to write to, and renames it to `path` when the block ends well.

    No reader, no error and no power cut meets half a file, and what was there before stays until then. While the block runs
    the hidden file is locked, so that `remove_stale_temp_files` of another run leaves it alone.
    Raises SrcliError: `path` is there and not to be overwritten, or the place cannot be written.
    """
    part = path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part, lock = _reserved(path)
        try:
            mode = part.stat().st_mode & 0o777
            yield part
            part.chmod(mode)  # some writers make files that only their owner may read
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            if overwrite:
                part.replace(path)
            else:
                _place(part, path)
        finally:
            with suppress(OSError):  # it is gone where all went well
                part.unlink()
            if lock is not None:
                os.close(lock)
    except FileExistsError:
        raise SrcliError(f"{path} is there already. Use --overwrite to replace it, or choose another -o.") from None
    except OSError as error:
        raise SrcliError(f"Cannot write {path}: {error.strerror}.") from None


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Raise before the work what `atomic_write` would raise after it; makes the folder where there is none."""
    if path.is_dir():
        raise SrcliError(f"{path} is a folder. Give the name of a file.")
    if path.exists() and not overwrite:
        raise SrcliError(f"{path} is there already. Use --overwrite to replace it, or choose another name.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part, lock = _reserved(path)
    except OSError as error:
        raise SrcliError(f"Cannot write {path}: {error.strerror}.") from None
    part.unlink()
    if lock is not None:
        os.close(lock)


def remove_stale_temp_files(paths: Iterable[Path]) -> None:
    """Remove what killed runs left beside these paths when they were to write them; what is being written now stays."""
    if fcntl is None:
        return
    names: dict[Path, set[str]] = {}
    for path in paths:
        names.setdefault(path.parent, set()).add(_short(path))
    for folder, wanted in names.items():
        with suppress(OSError):  # no such folder, or none of ours
            for entry in os.scandir(folder):
                match = _PART.fullmatch(entry.name)
                if match and match["name"] in wanted and entry.is_file(follow_symlinks=False):
                    _remove_unlocked(Path(entry.path))


@contextmanager
def directory_lock(folder: Path) -> Iterator[bool]:
    """Lock a folder while the block runs. Gives False where another process has; one that is killed lets go of it.

    Where there are no locks (Windows, some network file systems) it gives True.
    """
    if fcntl is None:
        yield True
        return
    lock = os.open(folder, os.O_RDONLY)
    try:
        yield _locked(lock)
    finally:
        os.close(lock)


def _reserved(path: Path) -> tuple[Path, int | None]:
    """A new empty hidden file beside the path, and a descriptor that holds its lock."""
    while True:
        part = path.with_name(f".{_short(path)}.{secrets.token_hex(4)}.part{path.suffix}")
        lock = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if fcntl is None:
            os.close(lock)  # where it could not be renamed while it is open
            return part, None
        if _locked(lock) and os.fstat(lock).st_nlink:
            return part, lock
        os.close(lock)  # another run took it for a leftover before it was locked


def _locked(lock: int) -> bool:
    """Lock what the descriptor stands for; False where another process has. True also where the file system has no locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _remove_unlocked(part: Path) -> None:
    with suppress(OSError):
        lock = os.open(part, os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while another run writes it
            part.unlink()
        finally:
            os.close(lock)


def _short(path: Path) -> str:
    """The stem, cut so that the hidden name is never too long for a file system."""
    return os.fsdecode(os.fsencode(path.stem)[:200]).encode("utf-8", "ignore").decode()


def _place(part: Path, path: Path) -> None:
    """Rename without ever replacing a file; a link does that at once where the file system has links."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:
        if path.exists():
            raise FileExistsError(path) from None
        part.rename(path)
