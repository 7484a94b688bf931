"""What a worker of the cluster does: the same as one machine, with images from any storage."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from srcli.cluster.manifest import Record
from srcli.cluster.settings import settings_of
from srcli.cluster.shared import TileHelpers
from srcli.errors import SrcliError
from srcli.inference.batch import WORKERS, BatchUpscaler, UpscaleOptions, UpscaleResult
from srcli.inference.plan import Job
from srcli.io.atomic import remove_stale_temp_files
from srcli.io.storage import fetch, local_path, size_of, store

SLOTS = WORKERS + 1
"""Calls of `Worker.run` at a time: one more image than on one machine is being fetched or stored."""


@dataclass(frozen=True)
class Task:
    """An image and its result, as paths or URLs.

    bytes: of the image. may_exist: an earlier try may have written the result. done: the size of the result in bytes that the
    manifest has of an earlier run.
    """

    source: str
    target: str
    bytes: int
    may_exist: bool = False
    done: int | None = None

    @property
    def weight(self) -> int:
        """Bytes of the image if it will be read."""
        return self.bytes if self.done is None else 0


class Worker:
    """Loads its models once, and upscales images with the code of a batch on one machine, SLOTS at a time."""

    def __init__(self, options: UpscaleOptions, shared_pixels: int) -> None:
        """With `options.dry_run`, results are thrown away. shared_pixels: size from which on all workers compute tiles."""
        self.options, self.shared_pixels = options, shared_pixels
        self._upscaler = BatchUpscaler(replace(options, dry_run=False))

    def start(self, settings: str, folder: str) -> None:
        """Called once. settings: of the driver. folder: that relative paths start from.

        Raises SrcliError if the models on this node are not those of the driver.
        """
        with suppress(OSError):  # not on this node, and of no use for URLs
            os.chdir(folder)
        host = socket.gethostname()
        try:
            own = settings_of(self.options)
        except OSError as error:
            raise SrcliError(f"Cannot read {error.filename} on {host}. Copy it there, to the same path.") from None
        if own != settings:
            raise SrcliError(
                f"The models on {host} differ from those here. Install the same srcli, and copy the file of `model`."
            )

    def run(self, tasks: Sequence[Task], others: Sequence[Any] = ()) -> list[Record]:
        """A record for each task, one after another. others: workers that may help with a very large image.

        Raises SrcliError if no image can be upscaled.
        """
        return [self._run(task, others) for task in tasks]

    def is_up(self) -> bool:
        """Returns once the worker has been created."""
        return True

    def upscale_tile(self, place: int, lr: np.ndarray) -> np.ndarray:
        """See `Backend`: a tile of an image that another worker has. place: of the model in `UpscaleOptions.all_models`."""
        return self._upscaler.backend(self.options.all_models[place])(lr)

    def measure(self, tasks: Sequence[Task]) -> tuple[float, list[Record]]:
        """The seconds that the tasks take together after the models are loaded, and a record for each. Called alone."""
        self._run(tasks[0])
        began = time.perf_counter()
        with ThreadPoolExecutor(SLOTS) as pool:
            records = list(pool.map(self._run, tasks))
        return time.perf_counter() - began, records

    def stop(self) -> None:
        """End the images in progress, and leave no incomplete file."""
        self._upscaler.stop()

    def _run(self, task: Task, others: Sequence[Any] = ()) -> Record:
        if task.done is not None and _exists(task.target, task.done):
            return Record(task.source, task.target, skipped=True, bytes=task.done)
        with tempfile.TemporaryDirectory() as scratch:
            job = self._job(task, Path(scratch))
            if task.may_exist:
                remove_stale_temp_files([job.target])
            helpers = TileHelpers(others, self.shared_pixels) if others else None
            return self._record(task, job, self._upscaler.upscale(job, helpers))

    def _job(self, task: Task, scratch: Path) -> Job:
        """With local files in place of those on other storage."""
        options = self.options
        source, target = local_path(task.source), None if options.dry_run else local_path(task.target)
        error = None
        try:
            if target is None:
                target = scratch / "result" / task.target.rsplit("/", 1)[-1]
                there = None if options.overwrite or options.dry_run else size_of(task.target)
                if there is not None and not (options.skip_existing or task.may_exist):
                    error = f"{task.target} already exists, so {task.source} was not upscaled. Use `overwrite` to replace it."
                elif there is not None:  # objects appear whole, so it is complete
                    fetch(task.target, _folder_of(target))
            if source is None and error is None:
                source = scratch / "image" / task.source.rsplit("/", 1)[-1]
                fetch(task.source, _folder_of(source))
        except Exception as problem:  # each storage has errors of its own
            error = f"Cannot read {task.source}: {problem}."
        return Job(source or scratch, target or scratch, error, task.may_exist)

    def _record(self, task: Task, job: Job, result: UpscaleResult) -> Record:
        def named(sentence: str) -> str:
            return sentence.replace(str(job.source), task.source).replace(str(job.target), task.target)

        error, size, digest = result.error and named(result.error), None, None
        if error is None and not result.large:
            try:
                with job.target.open("rb") as file:
                    hashed = sha256()
                    while block := file.read(2**20):
                        hashed.update(block)
                size, digest = job.target.stat().st_size, hashed.hexdigest()
                if local_path(task.target) is None and not (result.skipped or self.options.dry_run):
                    store(job.target, task.target)
            except SrcliError as problem:
                error = str(problem)
            except Exception as problem:  # each storage has errors of its own
                error = f"Cannot write {task.target}: {problem}."
        return Record(
            task.source,
            task.target,
            result.lr,
            result.sr,
            result.models,
            result.denoise,
            result.device,
            result.seconds,
            result.skipped and not task.may_exist,  # what an earlier try wrote is reported now
            result.large,
            tuple(map(named, result.notes)),
            error,
            size,
            digest,
            socket.gethostname(),
        )


def _exists(target: str, size: int) -> bool:
    """False if that cannot be found out; the image is then done again, or reported."""
    try:
        return size_of(target) == size
    except Exception:  # each storage has errors of its own
        return False


def _folder_of(path: Path) -> Path:
    """The path, after its folder has been created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
