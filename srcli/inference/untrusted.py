"""Loads a model file of another project in a process with limits, before this process loads it.

A file of a few megabytes can describe a network of any size. Its architecture follows from the names and shapes of its weights,
so no check of the file alone can tell how much memory and time the network takes to build.
"""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from srcli.errors import SrcliError
from srcli.io.files import user_cache

SECONDS = 10
"""Of processor time that loading may take, and half of the time that it may take with waiting."""

IMPORT_SECONDS = 120
"""That Python, torch and spandrel may take to be imported before, as on a slow or busy machine."""

MEMORY = 2 * 2**30
"""Bytes, plus eight times the size of the file, that loading may take."""

TOO_MUCH = 3
"""Exit code of the process if a limit is reached."""


def check_loads(path: Path, *, seconds: int = SECONDS, memory: int = MEMORY) -> None:
    """Raise SrcliError if the model cannot be loaded within these limits. Files that passed are remembered by their content."""
    passed = user_cache() / "models" / hashlib.sha256(path.read_bytes()).hexdigest()
    if passed.exists():
        return
    limits = [str(seconds), str(memory + 8 * path.stat().st_size)]
    command = [sys.executable, "-m", "srcli.inference.untrusted", str(path), *limits]
    too_much = (
        f"{path} takes more than {seconds} seconds or {memory / 2**30:g} GB to load, so it is probably not a real model. "
        "Use another one."
    )
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, errors="replace", timeout=IMPORT_SECONDS + 2 * seconds
        )
    except subprocess.TimeoutExpired:  # the process limits loading itself
        raise SrcliError(
            f"{path} could not be checked, as importing torch takes minutes. Try again when less is running."
        ) from None
    if done.returncode == 1 and done.stdout.strip():
        raise SrcliError(done.stdout.strip())
    if done.returncode == TOO_MUCH or done.returncode < 0:  # killed by a limit
        raise SrcliError(too_much)
    if done.returncode != 0:
        raise SrcliError(f"{path} cannot be loaded, so it is probably damaged. Get it again.")
    with suppress(OSError):  # without a cache, the file is checked every time
        passed.parent.mkdir(parents=True, exist_ok=True)
        passed.touch()


def main(path: str, seconds: str, memory: str) -> None:
    """Load the model. Prints the message and exits with 1 if it is not a model."""
    from srcli.inference.third_party import import_spandrel, load_third_party

    try:
        import_spandrel()  # needs memory and time of its own
    except SrcliError as error:
        print(error)  # noqa: T201
        sys.exit(1)
    timer = threading.Timer(2 * int(seconds), os._exit, (TOO_MUCH,))
    timer.daemon = True
    timer.start()
    with suppress(ImportError):  # there is no such module on Windows, where only the time is limited
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize() if sys.platform == "linux" else 0
        resource.setrlimit(resource.RLIMIT_DATA, (used + int(memory),) * 2)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(usage.ru_utime + usage.ru_stime) + int(seconds),) * 2)
    try:
        load_third_party(Path(path))
    except SrcliError as error:
        if isinstance(error.__context__, MemoryError) or "memory" in str(error).lower():
            sys.exit(TOO_MUCH)
        print(error)  # noqa: T201
        sys.exit(1)
    except MemoryError:
        sys.exit(TOO_MUCH)


if __name__ == "__main__":
    main(*sys.argv[1:])
