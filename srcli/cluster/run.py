"""The driver of a batch on a Ray cluster: hands bunches of images to workers, and records what becomes of them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from srcli.cluster.manifest import Manifest, Record
from srcli.cluster.plan import bunches
from srcli.cluster.storage import size_of
from srcli.cluster.worker import Task, Worker
from srcli.errors import SrcliError, counted, unexpected
from srcli.inference.batch import UpscaleOptions

MAX_KILLS = 2
"""Workers that may end over one image before it is set aside."""
MAX_ENDS = 10
"""Workers that may end one after another without any result."""


class Cluster:
    """Workers on a Ray cluster, as a context.

    address: of the cluster; `auto` for the one that runs here, or for a new one on this machine. workers: how many; None for
    one per node, or as many as the GPUs hold. gpus: the share of a GPU that each worker takes; 0 for none.
    Raises SrcliError if the cluster cannot be reached, or has not enough CPUs or GPUs.
    """

    def __init__(self, options: UpscaleOptions, address: str, *, workers: int | None = None, gpus: float = 0) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a worker without GPUs sees those of its node
        self._connected_here = not ray.is_initialized()
        if self._connected_here:
            _connect(address)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        cpus = sum(int(node.get("CPU", 0)) for node in nodes)
        all_gpus = sum(node.get("GPU", 0) for node in nodes)
        self.nodes = len(nodes)
        self.workers = workers or (int(all_gpus / gpus + 1e-6) if gpus else len(nodes))
        if self.workers < 1 or self.workers > cpus or self.workers * gpus > all_gpus + 1e-6:
            raise SrcliError(
                f"The cluster has {counted(cpus, 'CPU')} and {all_gpus:g} GPUs, too few for "
                f"{counted(self.workers, 'worker')}. Use fewer `workers`."
            )
        actor: Any = ray.remote(num_cpus=1, num_gpus=gpus, scheduling_strategy="SPREAD")(Worker)
        self._options = ray.put(options)
        self._new_worker: Callable[[], Any] = lambda: actor.remote(self._options)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connected_here:
            ray.shutdown()

    def run(self, tasks: Iterable[Task | Record], manifest: Manifest) -> Iterator[Record]:
        """A record for each task, as they are done. Those that earlier runs recorded in the manifest are skipped.

        A bunch whose worker ends is tried again, each image alone. An image that ends MAX_KILLS workers alone is set aside
        with an error. Raises SrcliError if no image can be upscaled.
        """
        ready: deque[Record] = deque()  # known without work
        waiting = bunches(self._to_do(tasks, manifest, ready))
        again: deque[list[Task]] = deque()
        kills: dict[str, int] = {}
        idle = [self._new_worker() for _ in range(self.workers)]
        running: dict[Any, tuple[Any, list[Task]]] = {}
        ends = 0
        try:
            while True:
                while idle and (bunch := again.popleft() if again else next(waiting, None)):
                    manifest.start(task.target for task in bunch)
                    worker = idle.pop()
                    running[worker.run.remote(bunch)] = worker, bunch
                yield from _drained(ready)
                if not running:
                    return
                done, _ = ray.wait(list(running), timeout=0.5)
                for reference in done:
                    worker, bunch = running.pop(reference)
                    try:
                        records = ray.get(reference)
                        ends = 0
                        idle.append(worker)
                    except RayActorError as error:
                        ends += 1
                        if ends == MAX_ENDS:
                            raise SrcliError(f"{ends} workers ended without a result: {_first_line(error)}.") from None
                        idle.append(self._new_worker())
                        records = _after_end(bunch, kills, again)
                    except RayTaskError as error:
                        if isinstance(error.cause, SrcliError):
                            raise SrcliError(str(error.cause)) from None
                        idle.append(worker)
                        cause = unexpected(error.cause if isinstance(error.cause, Exception) else error)
                        records = [
                            Record(task.source, task.target, error=f"Cannot upscale {task.source}: {cause}") for task in bunch
                        ]
                    manifest.add(records)
                    yield from records
        finally:
            for worker in [*idle, *(worker for worker, _ in running.values())]:
                ray.kill(worker)

    def _to_do(self, tasks: Iterable[Task | Record], manifest: Manifest, ready: deque[Record]) -> Iterator[Task]:
        """The tasks that no earlier run has done. Yields to the driver often enough that records do not pile up."""
        for task in tasks:
            if isinstance(task, Record):
                ready.append(task)
                continue
            size = manifest.bytes_of(task.target)
            if size is not None and size_of(task.target) == size:
                ready.append(Record(task.source, task.target, skipped=True, bytes=size))
                continue
            may_exist = manifest.was_started(task.target)
            yield Task(task.source, task.target, task.bytes, may_exist)


def _connect(address: str) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    try:
        if address != "auto":
            ray.init(address=address, **quiet)
            return
        try:
            ray.init(address="auto", **quiet)
        except ConnectionError:
            ray.init(include_dashboard=False, **quiet)
    except Exception as error:
        raise SrcliError(f"Cannot connect to the cluster {address}: {_first_line(error)}.") from None


def _after_end(bunch: list[Task], kills: dict[str, int], again: deque[list[Task]]) -> list[Record]:
    """What follows the end of a worker: a record if the image has ended too many, otherwise each image alone."""
    retried = [Task(task.source, task.target, task.bytes, may_exist=True) for task in bunch]
    if len(bunch) > 1:
        again.extend([task] for task in retried)
        return []
    task = retried[0]
    kills[task.source] = kills.get(task.source, 0) + 1
    if kills[task.source] < MAX_KILLS:
        again.append([task])
        return []
    problem = f"{task.source} was set aside, because its worker ended {MAX_KILLS} times. Try it alone, with less `memory`."
    return [Record(task.source, task.target, error=problem)]


def _drained(records: deque[Record]) -> Iterator[Record]:
    while records:
        yield records.popleft()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
