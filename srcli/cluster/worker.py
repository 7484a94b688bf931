"""What a worker of the cluster does: the same as one machine, with images from any storage."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from srcli.cluster.manifest import Record
from srcli.cluster.storage import fetch, local_path, size_of, store
from srcli.errors import SrcliError
from srcli.inference.batch import BatchUpscaler, UpscaleOptions, UpscaleResult
from srcli.inference.plan import Job

if TYPE_CHECKING:
    from srcli.inference.backend import Backend


@dataclass(frozen=True)
class Task:
    """An image and its result, as paths or URLs. bytes: of the image. may_exist: an earlier run may have written the result."""

    source: str
    target: str
    bytes: int
    may_exist: bool = False


class Worker:
    """Loads its models once, and upscales images with the code of a batch on one machine."""

    def __init__(self, options: UpscaleOptions) -> None:
        self.options = options
        self._backends: dict[int, Backend] = {}

    def run(self, tasks: Sequence[Task]) -> list[Record]:
        """A record for each task. Raises SrcliError if no image can be upscaled."""
        return [
            record
            for may_exist in (False, True)
            for record in self._run([task for task in tasks if task.may_exist == may_exist], may_exist)
        ]

    def _run(self, tasks: Sequence[Task], may_exist: bool) -> Iterable[Record]:
        if not tasks:
            return
        options = replace(self.options, skip_existing=self.options.skip_existing or (may_exist and not self.options.overwrite))
        with tempfile.TemporaryDirectory() as scratch:
            jobs: list[Job] = []
            for number, task in enumerate(tasks):
                jobs.append(self._job(task, Path(scratch, str(number)), options))
            for task, job, result in zip(tasks, jobs, BatchUpscaler(options, backends=self._backends).run(jobs), strict=True):
                yield self._record(task, job, result)

    def _job(self, task: Task, scratch: Path, options: UpscaleOptions) -> Job:
        """With local files in place of those on other storage."""
        source, target = local_path(task.source), local_path(task.target)
        error = None
        try:
            if target is None:
                target = scratch / "result" / task.target.rsplit("/", 1)[-1]
                there = None if options.overwrite else size_of(task.target)
                if there is not None and not options.skip_existing:
                    error = f"{task.target} already exists, so {task.source} was not upscaled. Use `overwrite` to replace it."
                elif there is not None:  # objects appear whole, so it is complete
                    fetch(task.target, _folder_of(target))
            if source is None and error is None:
                source = scratch / "image" / task.source.rsplit("/", 1)[-1]
                fetch(task.source, _folder_of(source))
        except Exception as problem:  # each storage has errors of its own
            error = f"Cannot read {task.source}: {problem}."
        return Job(source or scratch, target or scratch, error)

    def _record(self, task: Task, job: Job, result: UpscaleResult) -> Record:
        def named(sentence: str) -> str:
            return sentence.replace(str(job.source), task.source).replace(str(job.target), task.target)

        error, size, digest = result.error and named(result.error), None, None
        if error is None and not result.large and not self.options.dry_run:
            try:
                with job.target.open("rb") as file:
                    hashed = sha256()
                    while block := file.read(2**20):
                        hashed.update(block)
                size, digest = job.target.stat().st_size, hashed.hexdigest()
                if local_path(task.target) is None and not result.skipped:
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
            result.device,
            result.seconds,
            result.skipped,
            result.large,
            tuple(map(named, result.notes)),
            error,
            size,
            digest,
            socket.gethostname(),
        )


def _folder_of(path: Path) -> Path:
    """The path, after its folder has been created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
