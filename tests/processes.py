"""Commands in processes of their own that can be interrupted and killed, started in a moment."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

MODULES = ("srcli.cli.train_progress", "srcli.training.run", "torch._dynamo", "matplotlib.backends.backend_agg")
"""What `srcli train` imports, which takes seconds: only once, in a server that the processes are forked from."""


class Command:
    """`srcli` in a process of its own, with one thread, as sums in another order would not be equal to the bit."""

    def __init__(self, words: list[str], scratch: Path) -> None:
        """scratch: a file for its stderr."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(MODULES))
        self.scratch = scratch
        self.scratch.write_text("")
        self.process: BaseProcess = context.Process(target=_run, args=(words, str(scratch), dict(os.environ)))
        threads = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"  # for the server, which starts with the first process
        try:
            self.process.start()
        finally:
            os.environ.pop("OMP_NUM_THREADS") if threads is None else os.environ.update(OMP_NUM_THREADS=threads)

    @property
    def stderr(self) -> str:
        return self.scratch.read_text()

    @property
    def is_running(self) -> bool:
        return self.process.is_alive()

    def wait_for(self, words: str) -> None:
        """Wait until it has printed the words on stderr."""
        while words not in self.stderr:
            assert self.is_running, self.stderr
            time.sleep(0.01)

    def wait_for_file(self, path: Path) -> None:
        while not path.exists():
            assert self.is_running, self.stderr
            time.sleep(0.01)

    def send(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self) -> int:
        """Wait for its end, and return its exit code; -9 if it was killed."""
        self.process.join(600)
        assert self.process.exitcode is not None, "it did not end"
        return self.process.exitcode


def run(words: list[str], scratch: Path) -> None:
    """Run a command that must succeed."""
    command = Command(words, scratch)
    assert command.end() == 0, command.stderr


def _run(words: list[str], stderr: str, variables: dict[str, str]) -> None:
    import torch

    from srcli.cli import main

    os.environ.update(variables)  # the server has those of an earlier test
    torch.set_num_threads(1)
    with open(stderr, "w") as file, open(os.devnull, "w") as nothing:  # noqa: PTH123
        os.dup2(file.fileno(), 2)
        os.dup2(nothing.fileno(), 1)
    sys.argv = ["srcli", *words]
    main()
