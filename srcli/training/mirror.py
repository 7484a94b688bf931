"""A copy of a run's folder on any storage that fsspec opens, from which another machine continues."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from srcli.config import TrainConfig
from srcli.errors import SrcliError
from srcli.io.atomic import atomic_write
from srcli.io.storage import fetch, names_below, store
from srcli.training.run_dir import RunDirectory, is_same_run


class Mirror:
    """The copy of a folder at a URL. Without a URL, its methods copy nothing."""

    def __init__(self, directory: RunDirectory, url: str | None) -> None:
        self.directory = directory
        self.url = None if url is None else url.rstrip("/")
        self._copied: dict[Path, tuple[int, int]] = {}  # dates and sizes

    def push(self) -> None:
        """Copy the files that have changed. Each appears whole, and the checkpoint last, so the others are at least as new.

        Raises SrcliError if that fails.
        """
        if self.url is None:
            return
        below = (path for each in self.directory.files() for path in ([each] if each.is_file() else each.rglob("*")))
        for path in sorted(below, key=lambda path: path == self.directory.checkpoint):
            status = path.stat()
            state = status.st_mtime_ns, status.st_size
            if path.is_file() and self._copied.get(path) != state:
                try:
                    store(path, f"{self.url}/{path.relative_to(self.directory.folder).as_posix()}")
                except Exception as error:  # each storage has errors of its own
                    raise SrcliError(f"Cannot copy {path} to {self.url}: {_reason(error)}.") from None
                self._copied[path] = state

    def try_push(self, on_error: Callable[[str], None]) -> None:
        """Copy what has changed. on_error: called with a sentence if that fails; the next time copies it as well."""
        try:
            self.push()
        except SrcliError as error:
            on_error(f"{error} Training goes on.")

    def newest(self, config: TrainConfig) -> dict[str, Any] | None:
        """The state of the unfinished run in the folder, after the copy has replaced it if the copy is further.

        Raises SrcliError if the copy is of another run, or cannot be read.
        """
        if self.url is not None:
            try:
                self._pull(self.url, config)
            except SrcliError:
                raise
            except Exception as error:  # each storage has errors of its own
                raise SrcliError(f"Cannot read {self.url}: {_reason(error)}. Choose another `mirror`.") from None
        return self.directory.unfinished(config)

    def _pull(self, url: str, config: TrainConfig) -> None:
        directory = self.directory
        names = names_below(url)
        if directory.checkpoint.name not in names:
            return
        with TemporaryDirectory() as scratch:
            copy = Path(scratch, directory.checkpoint.name)
            fetch(f"{url}/{copy.name}", copy)
            there = directory.load(copy)
        if not is_same_run(there, config):
            raise SrcliError(f"{url} contains another run. Choose another `mirror`, or use `overwrite` to replace it.")
        if directory.files() and not directory.without_checkpoint:
            here = directory.load() if directory.checkpoint.is_file() else {}
            if not here or not is_same_run(here, config) or here["steps"] >= there["steps"]:
                return
        directory.folder.mkdir(parents=True, exist_ok=True)
        with directory.locked():
            # the settings first, as they say whose the other files are if the process is killed now
            for name in sorted(names, key=lambda name: (name == copy.name, name != directory.config_file.name)):
                with atomic_write(directory.folder / name) as part:
                    fetch(f"{url}/{name}", part)


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
