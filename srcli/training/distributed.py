"""Training in several processes that `torchrun` starts, with torch.distributed."""

from __future__ import annotations

import importlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

from srcli.errors import SrcliError

Value = TypeVar("Value")

_LOST_CONNECTION = re.compile(r"connect|gloo|nccl|socket|store|broken pipe", re.IGNORECASE)
"""In errors of torch.distributed, which are all RuntimeErrors."""

SECONDS_TO_MEET = 300.0
"""How long processes wait for the first one."""


@dataclass(frozen=True)
class DistributedContext:
    """The rank of this process, from 0, and the number of processes. The first one writes files and reports progress."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes. A value that is not finite in one is not finite in the mean."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values / self.size

    def any(self, one: bool, device: torch.device) -> bool:
        """Whether `one` is true in any process, so that all of them decide alike."""
        return one if self.size == 1 else bool(self.mean(torch.tensor(float(one), device=device)) > 0)

    def gather(self, values: Sequence[int], device: torch.device) -> list[list[int]]:
        """The integers of all processes, by rank."""
        own = torch.tensor(values, device=device)
        every = [own.clone() for _ in range(self.size)]
        if self.size > 1:
            torch.distributed.all_gather(every, own)
        return [each.tolist() for each in every]

    def from_first(self, make: Callable[[], Value], device: torch.device) -> Value:
        """What `make` returns in the first process, in all of them: picklable, with tensors on the CPU.

        If it raises SrcliError there, all of them do, so that none waits for the others.
        """
        if self.size == 1:
            return make()
        found: list[Any] = [None, None]
        if self.is_first:
            try:
                found[0] = make()
            except SrcliError as error:
                found[1] = str(error)
        with _connections_explained():
            torch.distributed.broadcast_object_list(found, device=device)
        if found[1] is not None:
            raise SrcliError(found[1])
        value: Value = found[0]
        return value

    def has_lost(self, error: RuntimeError) -> bool:
        """Whether the error says that another process has ended."""
        return self.size > 1 and _LOST_CONNECTION.search(str(error)) is not None

    def can_capture(self, device: torch.device) -> bool:
        """Whether a training step may be captured as a CUDA graph. Communication between processes is not."""
        return device.type == "cuda" and self.size == 1

    def wait(self) -> None:
        """Wait for all processes. Raises SrcliError if one has ended."""
        if self.size > 1:
            with _connections_explained():
                torch.distributed.barrier()

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """The first process runs the block before the others do, as when it fills a cache that they read."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()


def init_distributed(device: torch.device) -> DistributedContext:
    """Join the processes that `torchrun` started, with gloo on CPUs and NCCL on GPUs. Without torchrun there is only one.

    Raises SrcliError if one of them cannot be reached.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        return DistributedContext()
    if not torch.distributed.is_initialized():
        # if it is first imported after this, by DistributedDataParallel, the defaults of its functions keep the process group,
        # and gloo's threads, until the process exits, which they abort now and then
        importlib.import_module("torch.distributed.nn")
        with _connections_explained():
            store, rank, size = _fresh_store()
            torch.distributed.init_process_group(
                "nccl" if device.type == "cuda" else "gloo", store=store, rank=rank, world_size=size
            )
    return DistributedContext(torch.distributed.get_rank(), size)


def _fresh_store() -> tuple[Any, int, int]:
    """A store of this attempt, through which the processes find each other; the rank of this one, and their number.

    torchrun keeps its own store when it restarts processes, with the addresses of those that have ended. So the first process
    opens another one, and the others read its port from torchrun's until it is that of a process that runs.
    """
    from torch.distributed import TCPStore, rendezvous  # type: ignore[attr-defined] # not part of every build

    kept, rank, size = next(rendezvous("env://"))
    host = os.environ["MASTER_ADDR"]
    if rank == 0:
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
        kept.set("srcli port", str(store.port))
        return store, rank, size
    deadline = time.monotonic() + SECONDS_TO_MEET
    while True:
        try:
            port = int(kept.get("srcli port"))
            store = TCPStore(host, port, timeout=timedelta(seconds=1), wait_for_workers=False)
        except torch.distributed.DistError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            store.set_timeout(torch.distributed.default_pg_timeout)
            return store, rank, size


@contextmanager
def _connections_explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not _LOST_CONNECTION.search(str(error)):
            raise
        raise SrcliError("Another process of this run cannot be reached, as it has ended. Start the run again.") from None


def shutdown_distributed() -> None:
    """Leave the process group. Call this after everything that uses it has been released."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def local_device(name: str) -> str:
    """The GPU of this process under `torchrun`, for `auto` and `cuda`."""
    number = os.environ.get("LOCAL_RANK")
    return f"cuda:{number}" if number is not None and name in ("auto", "cuda") and torch.cuda.is_available() else name
