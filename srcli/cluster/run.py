"""The driver of a batch on a Ray cluster: hands bunches of images to workers, and records what becomes of them."""

from __future__ import annotations

import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from srcli.cluster.manifest import Manifest, Record
from srcli.cluster.plan import LARGE_BYTES, Bunches
from srcli.cluster.settings import settings_of
from srcli.cluster.shared import TILES_AT_ONCE
from srcli.cluster.worker import SLOTS, Task, Worker
from srcli.errors import SrcliError, counted, unexpected
from srcli.inference.batch import UpscaleOptions

MAX_KILLS = 2
"""Workers that may end over one image alone before it is set aside."""
MAX_ENDS = 10
"""Ends of workers, for each of them, without any result."""
SECONDS_TO_START = 15.0
"""After which the user is told that no worker has started."""
SECONDS_TO_STOP = 5.0
"""How long workers have to remove incomplete files."""
SHARED_PIXELS = 2**26
"""Size of an image from which on all workers compute its tiles. A node of 16 cores takes twenty seconds for so many."""


class Cluster:
    """Workers on a Ray cluster, as a context.

    address: of the cluster; `local` for a new one on this machine, `auto` for the one that runs here, or else a new one.
    workers: how many; None for one per node, or as many as the GPUs hold. gpus: the share of a GPU that each worker takes; 0
    for none. The CPUs of the nodes are shared among the workers, each of which uses as many threads. shared_pixels: size of an
    image from which on all workers compute its tiles.
    Raises SrcliError if the cluster cannot be reached, or has not enough CPUs or GPUs.
    """

    def __init__(
        self,
        options: UpscaleOptions,
        address: str,
        *,
        workers: int | None = None,
        gpus: float = 0,
        shared_pixels: int = SHARED_PIXELS,
    ) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a worker without GPUs sees those of its node
        self.settings = settings_of(options)
        self._connected_here = not ray.is_initialized()
        if self._connected_here:
            _connect(address)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        self.nodes = len(nodes)
        self.workers, self.cpus = shares(nodes, workers, gpus)
        calls = SLOTS + TILES_AT_ONCE + 1  # one more for `stop`
        actor: Any = ray.remote(Worker).options(
            num_cpus=self.cpus, num_gpus=gpus, scheduling_strategy="SPREAD", max_concurrency=calls
        )
        given = ray.put(options)
        self._new_seat: Callable[[], _Seat] = lambda: _Seat(actor.remote(given, shared_pixels), self.settings)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connected_here:
            ray.shutdown()

    def run(
        self, tasks: Iterable[Task | Record], manifest: Manifest, on_note: Callable[[str], None] = lambda _: None
    ) -> Iterator[Record]:
        """A record for each task, as they are done. Those that earlier runs recorded in the manifest are skipped.

        When a worker ends, the images that it had are tried again, each alone on a worker. An image that ends MAX_KILLS workers
        alone is set aside with an error. on_note: called with a sentence if there is no room for workers.
        Raises SrcliError if no image can be upscaled.
        """
        known: list[Record] = []  # without work
        waiting = Bunches(_to_do(tasks, manifest, known))
        again: deque[Task] = deque()
        kills: Counter[str] = Counter()
        seats = [self._new_seat() for _ in range(self.workers)]
        ends = 0
        patience = time.monotonic() + SECONDS_TO_START
        try:
            while True:
                _distribute(seats, waiting, again)
                started = [task.target for seat in seats for bunch in seat.given for task in bunch]
                manifest.add([*known, *([{"started": started}] if started else [])])
                yield from known
                known.clear()
                for seat in seats:
                    seat.call([other.worker for other in seats if other is not seat])
                if not any(seat.calls for seat in seats) and any(seat.is_up for seat in seats):
                    return
                records, ended = _results(seats)
                if time.monotonic() > patience and not any(seat.is_up for seat in seats):
                    on_note(f"Waiting for {counted(self.cpus, 'free CPU')} on a node of the cluster.")
                    patience = math.inf
                manifest.add(record for task, record in records if task.done is None or not record.skipped)
                yield from (record for _, record in records)
                ends = 0 if records else ends
                for seat, error in ended:
                    ends += 1
                    if ends == MAX_ENDS * self.workers:
                        raise SrcliError(f"{counted(ends, 'worker')} ended without a result: {_first_line(error)}.")
                    lost = _after_end(seat, kills, again)
                    manifest.add(lost)
                    yield from lost
                    ray.kill(seat.worker)
                    seats[seats.index(seat)] = self._new_seat()
        finally:
            _end(seats)

    def measure(self, parts: Sequence[Sequence[Task]]) -> list[tuple[float, list[Record]]]:
        """What `Worker.measure` returns for each part, on as many workers at once. Raises SrcliError if a worker ends."""
        seats = [self._new_seat() for _ in parts]
        try:
            ray.get([seat.starting for seat in seats])
            return ray.get([seat.worker.measure.remote(part) for seat, part in zip(seats, parts, strict=True)])
        except RayError as error:
            if isinstance(error, RayTaskError) and isinstance(error.cause, SrcliError):
                raise SrcliError(str(error.cause)) from None
            raise SrcliError(f"A worker ended over a sample of the images: {_first_line(error)}.") from None
        finally:
            _end(seats)


@dataclass(eq=False)
class _Seat:
    """A worker and its work. given: bunches that it gets next. calls: bunches in progress. alone: whether it gets no others."""

    worker: Any
    settings: InitVar[str]
    given: list[list[Task]] = field(default_factory=list)
    calls: dict[Any, list[Task]] = field(default_factory=dict)
    alone: bool = False

    def __post_init__(self, settings: str) -> None:
        self.starting = self.worker.start.remote(settings, os.getcwd())  # noqa: PTH109

    @property
    def is_up(self) -> bool:
        return self.starting is None

    @property
    def bunches(self) -> list[list[Task]]:
        return [*self.given, *self.calls.values()]

    def call(self, others: Sequence[Any]) -> None:
        """Start what is given. others: workers that may help with large images, but not with those that are tried alone."""
        for bunch in self.given:
            helped = not self.alone and bunch[0].weight >= LARGE_BYTES
            self.calls[self.worker.run.remote(bunch, others if helped else [])] = bunch
        self.given = []


def shares(nodes: Sequence[Mapping[str, float]], workers: int | None, gpus: float) -> tuple[int, int]:
    """How many workers, and how many CPUs each of them gets.

    nodes: the resources of each, `CPU` and `GPU`. workers: None for one on the smallest node and as many as fit on the others,
    or for as many as the GPUs hold.
    Raises SrcliError if there are too few CPUs or GPUs.
    """
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    held = [int(node.get("GPU", 0) / gpus + 1e-6) if gpus else count for node, count in zip(nodes, cpus, strict=True)]

    def fit(share: int) -> int:
        return sum(min(count // share, most) for count, most in zip(cpus, held, strict=True))

    if workers is None and gpus:
        workers = sum(held)
    elif workers is None:
        workers = fit(min((count for count in cpus if count), default=1))
    share = next((share for share in range(max(cpus, default=0), 0, -1) if fit(share) >= workers), 0)
    if workers < 1 or not share:
        raise SrcliError(
            f"The cluster has {counted(sum(cpus), 'CPU')} and {sum(node.get('GPU', 0) for node in nodes):g} GPUs, too few for "
            f"{counted(workers, 'worker')}. Use fewer `workers`, or a smaller share of `gpus`."
        )
    return workers, share


def _to_do(tasks: Iterable[Task | Record], manifest: Manifest, known: list[Record]) -> Iterator[Task]:
    """The tasks, with what the manifest says of them. Records go to `known`."""
    for task in tasks:
        if isinstance(task, Record):
            known.append(task)
        else:
            yield replace(task, may_exist=manifest.was_started(task.target), done=manifest.bytes_of(task.target))


def _distribute(seats: list[_Seat], waiting: Bunches, again: deque[Task]) -> None:
    """Give work to the workers that are up. One slot of each is for small images only.

    As many workers as there are images to be tried alone get nothing else until they have no work, and then such an image.
    """
    free = sorted((seat for seat in seats if seat.is_up and not seat.alone), key=lambda seat: len(seat.calls))
    reserved, others = free[: len(again)], free[len(again) :]
    for seat in reserved:
        if not seat.calls:
            seat.given, seat.alone = [[again.popleft()]], True
    for count in range(SLOTS):
        for seat in others:
            if len(seat.bunches) == count:
                large = sum(bunch[0].weight >= LARGE_BYTES for bunch in seat.bunches)
                bunch = waiting.next(large=large < SLOTS - 1)
                seat.given += [bunch] if bunch else []


def _results(seats: list[_Seat]) -> tuple[list[tuple[Task, Record]], list[tuple[_Seat, Exception]]]:
    """Wait for workers. What became of tasks, and the workers that have ended."""
    places = {reference: seat for seat in seats for reference in ([*seat.calls] if seat.is_up else [seat.starting])}
    ray.wait([*places], timeout=0.5)
    done, _ = ray.wait([*places], num_returns=len(places), timeout=0)
    records: list[tuple[Task, Record]] = []
    ended: dict[_Seat, Exception] = {}
    for reference in done:
        seat = places[reference]
        bunch = seat.calls.get(reference, [])
        try:
            found = ray.get(reference) or []
        except RayTaskError as error:
            if isinstance(error.cause, SrcliError):
                raise SrcliError(str(error.cause)) from None
            cause = unexpected(error.cause if isinstance(error.cause, Exception) else error)
            found = [Record(task.source, task.target, error=f"Cannot upscale {task.source}: {cause}") for task in bunch]
        except RayError as error:
            ended[seat] = error
            continue
        records += zip(bunch, found, strict=True)
        seat.starting, seat.alone = None, False
        seat.calls.pop(reference, None)
    return records, [*ended.items()]


def _after_end(seat: _Seat, kills: Counter[str], again: deque[Task]) -> list[Record]:
    """What follows the end of a worker: its images are tried alone, unless that has ended too many workers."""
    lost: list[Record] = []
    for task in (task for bunch in seat.calls.values() for task in bunch):
        kills[task.source] += seat.alone
        if kills[task.source] < MAX_KILLS:
            again.append(replace(task, may_exist=True))
            continue
        problem = f"{task.source} was set aside, because its worker ended {MAX_KILLS} times. Try it alone, with less `memory`."
        lost.append(Record(task.source, task.target, error=problem))
    return lost


def _end(seats: list[_Seat]) -> None:
    """End the workers. Those that are at work remove incomplete files first."""
    busy = [reference for seat in seats for reference in seat.calls]
    if busy:
        for seat in seats:
            seat.worker.stop.remote()
        ray.wait(busy, num_returns=len(busy), timeout=SECONDS_TO_STOP)
    for seat in seats:
        ray.kill(seat.worker)


def _connect(address: str) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        if address == "auto":
            try:
                ray.init(address=address, **quiet)
                return
            except ConnectionError:
                address = "local"
        if address == "local":
            quiet["include_dashboard"] = False
            os.environ.setdefault("RAY_worker_niceness", "0")  # Ray would let workers wait for all others
        ray.init(address=address, **quiet)
    except Exception as error:
        raise SrcliError(f"Cannot connect to the cluster {address}: {_first_line(error)}.") from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
