"""How much memory there is to work with."""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress
from pathlib import Path

import psutil

from srcli.errors import ConfigError

GIB = 2**30
USUAL = 2 * GIB
"""What an image's work is planned for where nothing is asked and enough is free."""

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD in glibc's malloc.h."""

_OWN = 2**18
"""Bytes from which on an array gets pages of its own."""


def release_freed_memory() -> None:
    """From now on arrays go back to the system as soon as they are freed, where glibc manages the heap.

    By itself it soon keeps pieces of up to 32 MB for those to come, a tenth of what a large image takes. New pages cost
    time, which many small images would feel (6 %), and a large one does not.
    """
    with suppress(OSError, AttributeError, TypeError):  # another system, or another C library
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _OWN)


def default_memory_budget() -> int:
    """Bytes to plan with where the user says nothing: half of what is free, at most `USUAL`."""
    return min(USUAL, free_memory() // 2)


def free_memory() -> int:
    """Bytes that can be taken without swapping, in the machine or in the container that this runs in."""
    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError, KeyError):  # not Linux, or no limit ("max")
        root = Path("/sys/fs/cgroup")
        limit, used = (int((root / name).read_text()) for name in ("memory.max", "memory.current"))
        counters = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        free = min(free, limit - used + int(counters["inactive_file"]))  # cached files give way when memory is wanted
    return max(free, 0)


def bytes_of(word: str) -> int:
    """512M, 2G, 1.5GiB and the like in bytes. Raises ConfigError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", word.strip().lower())
    if not match or not float(match[1]):
        raise ConfigError(f"{word!r} is no amount of memory. Say it as in 800M or 2G.")
    return int(float(match[1]) * _UNITS[match[2]])
