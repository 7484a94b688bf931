"""Files that are whole or not there."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from srcli.errors import SrcliError


@contextmanager
def written_whole(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Gives a hidden name beside `path` to write to, and renames it to `path` when the block ends well.

    No reader, no error and no power cut meets half a file, and what was there before stays until then.
    Raises SrcliError: `path` is there and not to be overwritten, or the place cannot be written.
    """
    part = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.chmod(0o666 & ~_umask())  # some writers make files that only their owner may read
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        if overwrite:
            part.replace(path)
        else:
            _place(part, path)
    except FileExistsError:
        raise SrcliError(f"{path} is there already. Use --overwrite to replace it, or choose another -o.") from None
    except OSError as error:
        raise SrcliError(f"Cannot write {path}: {error.strerror}.") from None
    finally:
        with suppress(OSError):  # where it could not be made, it cannot be removed
            part.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
