"""Planning a batch on a cluster, one image after another, so that millions of names need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from srcli.cluster.manifest import Record, key_of
from srcli.cluster.storage import list_images
from srcli.cluster.worker import Task
from srcli.errors import SrcliError
from srcli.inference.plan import Names

BUNCH_BYTES = 2**21
"""Bytes of the images of a bunch: about one image of 2 megapixels as PNG, or 8 as JPEG. Larger images are alone."""
BUNCH_IMAGES = 16


def plan_tasks(inputs: Sequence[str], output: str, names: Names, *, recursive: bool) -> Iterator[Task | Record]:
    """A task for each image, in the folder `output`, which mirrors the tree below each input; a record for each failure."""
    root = output.rstrip("/")
    taken: set[bytes] = set()
    for given in inputs:
        try:
            for entry in list_images(given, recursive=recursive):
                if entry.url.startswith(f"{root}/"):
                    continue  # results below the input
                below = Path(entry.below)
                target = f"{root}/{(below.parent / names.of(below).name).as_posix()}"
                key = key_of(target)
                if key in taken:
                    problem = f"{entry.url} and another image would both become {target}. Write them to different folders."
                    yield Record(entry.url, target, error=problem)
                    continue
                taken.add(key)
                yield Task(entry.url, target, entry.bytes)
        except SrcliError as error:
            yield Record(given, given, error=str(error))


def bunches(tasks: Iterable[Task]) -> Iterator[list[Task]]:
    """Small images in bunches and large ones alone, so that small ones neither wait behind large ones nor cost a call each."""
    bunch: list[Task] = []
    total = 0
    for task in tasks:
        if task.bytes > BUNCH_BYTES // 2:
            yield [task]
            continue
        bunch.append(task)
        total += task.bytes
        if total >= BUNCH_BYTES or len(bunch) == BUNCH_IMAGES:
            yield bunch
            bunch, total = [], 0
    if bunch:
        yield bunch
