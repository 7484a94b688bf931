"""Training in several processes that `torchrun` starts, with torch.distributed."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor


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

    def can_capture(self, device: torch.device) -> bool:
        """Whether a training step may be captured as a CUDA graph. Communication between processes is not."""
        return device.type == "cuda" and self.size == 1

    def wait(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
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
    """Join the processes that `torchrun` started, with gloo on CPUs and NCCL on GPUs. Without torchrun there is only one."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        return DistributedContext()
    if not torch.distributed.is_initialized():
        # if it is first imported after this, by DistributedDataParallel, the defaults of its functions keep the process group,
        # and gloo's threads, until the process exits, which they abort now and then
        importlib.import_module("torch.distributed.nn")
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return DistributedContext(torch.distributed.get_rank(), size)


def shutdown_distributed() -> None:
    """Leave the process group. Call this after everything that uses it has been released."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def local_device(name: str) -> str:
    """The GPU of this process under `torchrun`, for `auto` and `cuda`."""
    number = os.environ.get("LOCAL_RANK")
    return f"cuda:{number}" if number is not None and name in ("auto", "cuda") and torch.cuda.is_available() else name
