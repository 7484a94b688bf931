"""Planning a batch on a cluster, one image after another, so that millions of names need not fit into memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from srcli.cluster.manifest import Record, key_of
from srcli.cluster.worker import Task
from srcli.errors import SrcliError
from srcli.inference.plan import Names
from srcli.io.storage import is_url, list_images

BUNCH_BYTES = 2**16
"""Bytes from which on a bunch is full: a quarter of a megapixel as JPEG, which takes a worker about a second."""
BUNCH_IMAGES = 16
LARGE_BYTES = 2**21
"""Bytes from which on an image is large: ten megapixels as JPEG, which take a worker about a minute."""
MAX_ASIDE = 2000
"""Large images that are kept aside until the next small ones are found."""


def plan_tasks(inputs: Sequence[str], output: str, names: Names, *, recursive: bool) -> Iterator[Task | Record]:
    """A task for each image, in the folder `output`, which mirrors the tree below each input; a record for each failure."""
    root = output.rstrip("/") or "/"
    results = f"{_absolute(root)}/"
    taken: set[int] = set()
    for given in inputs:
        try:
            for entry in list_images(given, recursive=recursive):
                if _absolute(entry.url).startswith(results):
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


class Bunches:
    """Small images in bunches, so that they do not cost a call each, and large ones alone."""

    def __init__(self, tasks: Iterator[Task]) -> None:
        self._tasks = tasks
        self._large: deque[Task] = deque()
        self._small: list[Task] = []

    def next(self, *, large: bool) -> list[Task]:
        """The next bunch in the order of the tasks, empty if there is none. large: whether it may be a large image."""
        while not (large and self._large) and len(self._large) < MAX_ASIDE and not _is_full(self._small):
            task = next(self._tasks, None)
            if task is None:
                break
            (self._large if task.weight >= LARGE_BYTES else self._small).append(task)
        if large and self._large:
            return [self._large.popleft()]
        bunch, self._small = self._small, []
        return bunch


def _is_full(bunch: list[Task]) -> bool:
    return len(bunch) == BUNCH_IMAGES or sum(task.weight for task in bunch) >= BUNCH_BYTES


def _absolute(name: str) -> str:
    return name if is_url(name) else os.path.abspath(name)  # noqa: PTH100, symbolic links stay
