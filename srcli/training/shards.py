"""Photographs in tar shards in WebDataset's format: at local paths with braces, or at any URL that fsspec opens."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import fsspec
import numpy as np

from srcli.errors import SrcliError, counted
from srcli.io.formats import EXTENSIONS
from srcli.io.read import read_srgb
from srcli.training.cache import Decoded, decode, hash_of
from srcli.training.stream import Part, Position

ENDINGS = (".tar", ".tar.gz", ".tgz")


def are_shards(photos: str) -> bool:
    """Whether it names shards, and not a folder: as in `data/{000..099}.tar` and `s3://bucket/000.tar`."""
    return photos.endswith(ENDINGS) and not Path(photos).is_dir()


class ShardSource:
    """The photographs in shards. Samples need a member with the name of an image file; others are not used."""

    def __init__(self, pattern: str, part: Part) -> None:
        """pattern: a path or URL; braces stand for several, as in {000..099} and {a,b}.

        Raises SrcliError if the libraries are missing, if there are fewer shards than processes, or if a local one is missing.
        """
        try:
            from braceexpand import braceexpand
            from webdataset import tariterators
        except ImportError:
            raise SrcliError("Reading shards needs webdataset. Install it: pip install 'srcli[shards]'") from None
        try:
            self.urls = list(braceexpand(pattern))
        except ValueError as error:
            raise SrcliError(f"The braces in {pattern} do not match ({error}). Write them as in {{000..099}}.") from None
        self.part, self._tar = part, tariterators
        missing = [url for url in self.urls if "://" not in url and not Path(url).is_file()]
        if missing:
            raise SrcliError(f"There is no shard {missing[0]}. Check the path.")
        if len(self.urls) < part.size:
            raise SrcliError(
                f"There are only {counted(len(self.urls), 'shard')} for {part.size} processes, which read different ones. "
                "Use fewer processes, or smaller shards."
            )

    @property
    def description(self) -> str:
        return f"{counted(len(self.urls), 'shard')} to train on"

    @property
    def fingerprint(self) -> str:
        return hash_of("\n".join(self.urls))

    def epochs(self, position: Position) -> float:
        return self.part.epochs(position, len(self.urls))

    def read(self, start: Position) -> Iterator[tuple[str, Decoded, Position]]:
        for epoch in itertools.count(start.epoch):
            numbers = self.part.numbers(len(self.urls), epoch)
            for place in range(start.files if epoch == start.epoch else 0, len(numbers)):
                here = Position(epoch, place)
                before = start.samples if (epoch, place) == start[:2] else 0
                yield from self._read_shard(self.urls[numbers[place]], here, before)

    def _read_shard(self, url: str, here: Position, before: int) -> Iterator[tuple[str, Decoded, Position]]:
        """The photographs of a shard after the first `before`. The position after the last one is the next shard."""
        names: list[str] = []

        def contents() -> Iterator[bytes | SrcliError]:
            for name, content in self._samples(url, before):
                names.append(name)
                yield content

        def read(content: bytes | SrcliError) -> np.ndarray:
            if isinstance(content, SrcliError):
                raise content
            return read_srgb(content)

        waiting: tuple[str, Decoded] | None = None
        for number, photo in enumerate(decode(contents(), read, lambda: None)):
            if waiting is not None:
                yield *waiting, here._replace(samples=before + number)
            if isinstance(photo, SrcliError):  # names no file
                photo = SrcliError(str(photo).replace("stdin", names[number], 1))
            waiting = names[number], photo
        if waiting is None and not before:
            waiting = url, SrcliError(f"{url} contains no image.")
        if waiting is not None:
            yield *waiting, here._replace(files=here.files + 1)

    def _samples(self, url: str, before: int) -> Iterator[tuple[str, bytes | SrcliError]]:
        """Name and image file of each sample after the first `before`, and an error if the shard cannot be read further."""
        try:
            with fsspec.open(url, "rb") as stream:
                members = self._tar.tar_file_expander([{"url": url, "stream": stream}], select_files=_is_image)
                for sample in itertools.islice(self._tar.group_by_keys(members), before, None):
                    ending = next(key for key in sample if not key.startswith("__"))
                    yield f"{sample['__key__']}.{ending} in {url}", sample[ending]
        except Exception as error:  # each file system has its own
            reason = getattr(error, "strerror", None) or (error.args[0] if error.args else type(error).__name__)
            yield url, SrcliError(f"Cannot read {url}: {str(reason).rstrip('.')}.")


def _is_image(member: str) -> bool:
    path = PurePosixPath(member)
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")
