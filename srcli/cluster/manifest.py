"""The manifest of a batch: a line of JSON for each result, from which a broken run continues."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from srcli.errors import SrcliError
from srcli.io.atomic import path_lock


@dataclass(frozen=True)
class Record:
    """What became of an image.

    lr, sr: width and height of the image and of the result. denoise: the level chosen for the image. bytes, sha256: of the
    result's file. node: the host that did the work. skipped: the result existed, or the image is `large` enough.
    """

    input: str
    output: str
    lr: tuple[int, int] | None = None
    sr: tuple[int, int] | None = None
    models: tuple[str, ...] = ()
    denoise: float | None = None
    device: str | None = None
    seconds: float = 0
    skipped: bool = False
    large: bool = False
    notes: tuple[str, ...] = ()
    error: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    node: str | None = None


class Manifest:
    """A file of JSON lines, open for appending and locked, with what is known from earlier runs.

    In memory, an output of earlier runs takes eight bytes of a hash, and a result 16 more.
    """

    def __init__(self, path: Path, settings: str) -> None:
        """settings: identify the options.

        Raises SrcliError if the file is in use, is of a batch with other settings, or cannot be read.
        """
        self.path = path
        with ExitStack() as stack:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = stack.enter_context(path.open("a+b"))
                if not stack.enter_context(path_lock(path)):
                    raise SrcliError(f"Another batch is using {path}. Wait until it ends, or choose another `manifest`.")
                self._read(settings)
            except OSError as error:
                raise SrcliError(f"Cannot use the manifest {path}: {error.strerror}. Choose another file.") from None
            self._open = stack.pop_all()
        if not path.stat().st_size:
            self.add([{"settings": settings}])

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()

    def was_started(self, output: str) -> bool:
        """Whether an earlier run may have written this output."""
        return _place(self._started, output) is not None

    def bytes_of(self, output: str) -> int | None:
        """The size of a result that an earlier run recorded."""
        place = _place(self._results, output)
        return None if place is None else int(self._sizes[place])

    def add(self, lines: Iterable[Record | dict[str, Any]]) -> None:
        """Append lines. They are on the disk when this returns. Raises SrcliError if that fails."""
        text = "".join(f"{json.dumps(asdict(line) if isinstance(line, Record) else line)}\n" for line in lines)
        if not text:
            return
        try:
            self._file.write(text.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise SrcliError(f"Cannot write {self.path}: {error.strerror}. Then the same command continues.") from None

    def _read(self, settings: str) -> None:
        started, results, sizes = array("Q"), array("Q"), array("Q")
        self._file.seek(0)
        text = b"\n"
        for number, text in enumerate(self._file):
            line = _parsed(text)
            if number == 0 and "settings" not in line:
                raise SrcliError(f"{self.path} is no manifest. Choose another file.")
            if number == 0 and line["settings"] != settings:
                raise SrcliError(f"{self.path} belongs to a batch with other options or models. Choose another `manifest`.")
            started.extend(map(key_of, line.get("started", ())))
            if line.get("bytes") is not None and line["error"] is None:
                results.append(key_of(line["output"]))
                sizes.append(line["bytes"])
        if not text.endswith(b"\n"):  # a line that a killed run did not complete
            self._file.write(b"\n")
        self._started = np.unique(np.asarray(started))
        self._results, last = np.unique(np.asarray(results)[::-1], return_index=True)
        self._sizes = np.asarray(sizes)[::-1][last]


def key_of(name: str) -> int:
    """A number of eight bytes that stands for a name, of which ten million fit into memory."""
    return int.from_bytes(blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest(), "big")


def _parsed(line: bytes) -> dict[str, Any]:
    """The object in a line; an empty one if a killed run did not complete the line, so that its image is done again."""
    try:
        parsed = json.loads(line)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _place(keys: np.ndarray, output: str) -> int | None:
    key = np.uint64(key_of(output))
    place = int(np.searchsorted(keys, key))
    return place if place < len(keys) and keys[place] == key else None
