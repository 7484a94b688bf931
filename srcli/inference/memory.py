"""How much memory is available."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

import psutil

DEFAULT_BUDGET = 2 * 2**30
"""Bytes to plan with if the user gives no limit and enough memory is free."""

_M_MMAP_THRESHOLD = -3  # in glibc's malloc.h
_THRESHOLD = 2**18
"""Size in bytes from which on an array gets memory pages of its own."""


def release_freed_memory() -> None:
    """From now on, return the memory of arrays to the system as soon as they are freed, if glibc manages the heap.

    By default, glibc keeps freed blocks of up to 32 MB, which amounts to a tenth of what a large image takes. New pages take
    time: 6 % for many small images, hardly any for a large one.
    """
    with suppress(OSError, AttributeError, TypeError):  # not Linux, or another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _THRESHOLD)


def default_memory_budget() -> int:
    """Bytes to plan with if the user gives no limit: half of the free memory, at most DEFAULT_BUDGET."""
    return min(DEFAULT_BUDGET, free_memory() // 2)


def free_memory() -> int:
    """Bytes that can be allocated without swapping, in the machine or in the container that this process runs in."""
    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError, KeyError):  # not Linux, or no limit ("max")
        root = Path("/sys/fs/cgroup")
        limit, used = (int((root / name).read_text()) for name in ("memory.max", "memory.current"))
        counters = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        free = min(free, limit - used + int(counters["inactive_file"]))  # the page cache is freed on demand
    return max(free, 0)
