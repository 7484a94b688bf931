"""The manifest of a batch: a line of JSON for each result, from which a broken run continues."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any

from srcli.errors import SrcliError


@dataclass(frozen=True)
class Record:
    """What became of an image.

    lr, sr: width and height of the image and of the result. bytes, sha256: of the result's file. node: the host that did the
    work. skipped: the result existed, or the image is `large` enough.
    """

    input: str
    output: str
    lr: tuple[int, int] | None = None
    sr: tuple[int, int] | None = None
    models: tuple[str, ...] = ()
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
    """A file of JSON lines, open for appending, with what is known from earlier runs.

    In memory, it holds eight bytes of a hash and a number for each output, so that ten million of them fit.
    """

    def __init__(self, path: Path, settings: str) -> None:
        """settings: identify the options. Raises SrcliError if the file is of a batch with others, or cannot be read."""
        self.path = path
        self._bytes: dict[bytes, int] = {}
        self._started: set[bytes] = set()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._read(settings)
            self._file = path.open("a+b")
            if path.stat().st_size:
                self._file.seek(-1, os.SEEK_END)
                if self._file.read(1) != b"\n":  # a line that a killed run did not complete
                    self._file.write(b"\n")
            else:
                self._append([{"settings": settings}])
        except OSError as error:
            raise SrcliError(f"Cannot use the manifest {path}: {error.strerror}. Choose another file.") from None

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def bytes_of(self, output: str) -> int | None:
        """The size of a result that an earlier run completed."""
        return self._bytes.get(key_of(output))

    def was_started(self, output: str) -> bool:
        """Whether an earlier run may have written this output without recording it."""
        return key_of(output) in self._started

    def start(self, outputs: Iterable[str]) -> None:
        """Record, before the work, that these outputs may appear."""
        self._append([{"started": list(outputs)}])

    def add(self, records: Iterable[Record]) -> None:
        self._append([asdict(record) for record in records])

    def _append(self, lines: Iterable[dict[str, Any]]) -> None:
        self._file.write("".join(f"{json.dumps(line)}\n" for line in lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, settings: str) -> None:
        with self.path.open(encoding="utf-8") as lines:
            for number, text in enumerate(lines):
                try:
                    line = json.loads(text)
                except ValueError:
                    if number == 0:
                        raise SrcliError(f"{self.path} is no manifest. Choose another file.") from None
                    continue  # a line that a killed run did not complete; its image is done again
                if number == 0 and line.get("settings") != settings:
                    raise SrcliError(f"{self.path} belongs to a batch with other options. Choose another `manifest`.")
                for output in line.get("started", ()):
                    self._started.add(key_of(output))
                if "output" in line:
                    key = key_of(line["output"])
                    self._started.discard(key)
                    if line["error"] is None and line["bytes"] is not None:
                        self._bytes[key] = line["bytes"]


def key_of(output: str) -> bytes:
    """Eight bytes that stand for a name, of which ten million fit into memory."""
    return blake2b(output.encode(errors="surrogateescape"), digest_size=8).digest()
