"""Commands in processes of their own that can be interrupted and killed, started in a moment."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

MODULES = (
    "srcli.cli.train_progress",
    "srcli.training.run",
    "torch._dynamo",
    "matplotlib.figure",
    "matplotlib.backends.backend_svg",
)
"""What commands import, which takes seconds: only once, in a server that the processes are forked from."""


class Command:
    """`srcli` in a process of its own."""

    def __init__(self, words: list[str], scratch: Path) -> None:
        """scratch: a folder for the files `stdout` and `stderr`."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(MODULES))
        self.scratch = scratch
        for name in ("stdout", "stderr"):
            (scratch / name).write_text("")
        self.process: BaseProcess = context.Process(target=_run, args=(words, str(scratch), dict(os.environ)))
        self.process.start()

    @property
    def stdout(self) -> str:
        return self._printed("stdout")

    @property
    def stderr(self) -> str:
        return self._printed("stderr")

    @property
    def exit_code(self) -> int | None:
        """-9 if it was killed, and None while it is running."""
        return self.process.exitcode

    @property
    def is_running(self) -> bool:
        return self.process.is_alive()

    def wait_for(self, words: str) -> None:
        """Wait until it has printed the words on stderr."""
        while words not in self.stderr:
            assert self.is_running, self.stderr
            time.sleep(0.01)

    def wait_for_file(self, path: Path, newer_than: int = 0) -> None:
        """Wait until there is a file that was written after this time, in ns."""
        while not path.exists() or path.stat().st_mtime_ns <= newer_than:
            assert self.is_running, self.stderr
            time.sleep(0.01)

    def send(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self) -> None:
        """Wait for its end."""
        self.process.join(600)
        assert not self.is_running, "it did not end"

    def _printed(self, name: str) -> str:
        return (self.scratch / name).read_text(errors="surrogateescape")


def run(words: list[str], scratch: Path) -> Command:
    """Run a command to its end."""
    command = Command(words, scratch)
    command.end()
    return command


def _run(words: list[str], scratch: str, variables: dict[str, str]) -> None:
    from srcli.cli import main

    os.environ.update(variables)  # the server has those of an earlier test
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        with open(f"{scratch}/{name}", "w") as file:  # noqa: PTH123
            os.dup2(file.fileno(), descriptor)
    sys.argv = ["srcli", *words]
    main()
