"""An estimate of the time that a batch takes on a cluster, from a sample of its images."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from srcli.cluster.manifest import Record
from srcli.cluster.run import Cluster
from srcli.cluster.worker import Task
from srcli.errors import SrcliError

SAMPLE = 12
"""Images for each worker."""


@dataclass(frozen=True)
class Estimate:
    """What a batch takes.

    images, bytes: of the batch. sample: how many of them were upscaled, and failed: how many of these could not be.
    result_bytes: of all results. seconds: of all workers together. spread: the relative standard error of `seconds`, as far as
    it is known from the images of the sample.
    """

    images: int
    bytes: int
    sample: int
    failed: int
    result_bytes: int
    workers: int
    nodes: int
    seconds: float
    node_hours: float
    spread: float


def estimate(cluster: Cluster, tasks: Iterable[Task | Record]) -> tuple[Estimate, list[str]]:
    """The estimate, and the errors of the images in the sample. Results are thrown away, and existing ones not looked up.

    Raises SrcliError if no image of the sample can be upscaled.
    """
    chance = random.Random(0)
    sample: list[Task] = []
    images = size = 0
    errors: list[str] = []
    for task in tasks:
        if isinstance(task, Record):
            errors.append(str(task.error))
            continue
        images += 1
        size += task.bytes
        if len(sample) < SAMPLE * cluster.workers:
            sample.append(task)
        elif (place := chance.randrange(images)) < len(sample):
            sample[place] = task
    parts = [part for first in range(cluster.workers) if (part := sample[first :: cluster.workers])]
    measured = cluster.measure(parts)
    records = [record for _, of_worker in measured for record in of_worker]
    failures = [record.error for record in records if record.error]
    errors += failures
    if len(failures) == len(records):
        raise SrcliError(errors[0] if errors else "There is no image to upscale. Check the names of the inputs.")
    given = sum(task.bytes for task in sample)
    made = sum(record.bytes or 0 for record in records)
    rate = sum(sum(task.bytes for task in part) / seconds for part, (seconds, _) in zip(parts, measured, strict=True))
    seconds = size / rate
    taken = [task for part in parts for task in part]
    pairs = [(record.seconds, task.bytes) for task, record in zip(taken, records, strict=True)]
    found = Estimate(
        images,
        size,
        len(sample),
        len(failures),
        round(made * size / given),
        cluster.workers,
        cluster.nodes,
        seconds,
        cluster.nodes * seconds / 3600,
        _spread(pairs, images),
    )
    return found, errors


def _spread(pairs: Sequence[tuple[float, int]], images: int) -> float:
    """The relative standard error of a ratio estimate from pairs of seconds and bytes, a sample of `images`."""
    count = len(pairs)
    seconds, size = sum(own for own, _ in pairs), sum(weight for _, weight in pairs)
    rest = sum((own - seconds / size * weight) ** 2 for own, weight in pairs)
    return math.sqrt(rest / max(count - 1, 1) * count * (1 - count / images)) / max(seconds, 1e-9)
