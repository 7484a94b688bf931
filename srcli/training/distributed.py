"""Several processes that train one generator, on PyTorch's own engine, as `torchrun` starts them."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor


@dataclass(frozen=True)
class DistributedContext:
    """This process among all: its number, from 0, and how many there are. The first writes and speaks for all."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Of every process's values; a number that is not finite in one is not finite in all."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values / self.size

    def any(self, one: bool, device: torch.device) -> bool:
        """Whether it is so in any process: they all go the same way."""
        return one if self.size == 1 else bool(self.mean(torch.tensor(float(one), device=device)) > 0)

    def wait(self) -> None:
        """Until all have come here."""
        if self.size > 1:
            torch.distributed.barrier()


def init_distributed(device: torch.device) -> DistributedContext:
    """The world that `torchrun` has made, joined through gloo on CPUs and NCCL on GPUs; a world of one without it."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        return DistributedContext()
    if not torch.distributed.is_initialized():
        # first imported by DistributedDataParallel, after the world is joined, its functions' defaults would hold the world
        # to the end of the process, and with it gloo's threads, which then and now abort the process as it ends
        importlib.import_module("torch.distributed.nn")
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return DistributedContext(torch.distributed.get_rank(), size)


def shutdown_distributed() -> None:
    """To be called when nothing that was made for the world is left."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def local_device(name: str) -> str:
    """`auto` and `cuda` become the GPU that is this process's own under `torchrun`."""
    number = os.environ.get("LOCAL_RANK")
    return f"cuda:{number}" if number is not None and name in ("auto", "cuda") and torch.cuda.is_available() else name
