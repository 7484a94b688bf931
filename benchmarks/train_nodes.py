"""Does training on several nodes survive the end of a process, and of a node?

    python benchmarks/train_nodes.py [--steps 600]

Starts torchrun twice on this machine, as two nodes without common storage, with one process each. Kills a process, and later a
whole node. Prints how soon the other process has ended, and from which step torchrun's restart continues.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"
TINY = "--generator compact --channels 8 --blocks 1 --scale 2 --patch 32 --batch 2 --device cpu --val-split 0 --cache none"


class Node:
    """torchrun in a folder of its own."""

    def __init__(self, root: Path, name: str, port: int, steps: int) -> None:
        self.log = root / f"{name}.log"
        (root / name).mkdir()
        elastic = (
            f"--nnodes 1:2 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:{port} --local-addr 127.0.0.1 --max-restarts 3".split()
        )
        command = [sys.executable, "-m", "torch.distributed.run", *elastic, "--nproc-per-node", "1", "-m", "srcli", "train"]
        run = ["-o", "run", "--mirror", str(root / "mirror"), "--steps", str(steps), "--save-every", "50"]
        with self.log.open("w") as log:
            self.agent = subprocess.Popen(
                [*command, str(PHOTOS), *TINY.split(), *run],
                cwd=root / name,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stderr=log,
                stdout=log,
            )

    def training(self) -> list[psutil.Process]:
        return [child for child in psutil.Process(self.agent.pid).children(recursive=True) if "srcli" in child.cmdline()]


def seconds_until_ended(processes: list[psutil.Process]) -> float:
    began = time.perf_counter()
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
        time.sleep(0.05)
    return time.perf_counter() - began


def steps_in(mirror: Path) -> int:
    return int(torch.load(mirror / "checkpoint.pt")["steps"]) if (mirror / "checkpoint.pt").exists() else 0


def wait_for(mirror: Path, steps: int, node: Node) -> None:
    while steps_in(mirror) < steps:
        if node.agent.poll() is not None:
            sys.exit(node.log.read_text())
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    steps = parser.parse_args().steps
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as scratch:
        try:
            sys.exit(trial(Path(scratch), port, steps))
        finally:
            for left in psutil.Process().children(recursive=True):
                left.kill()


def trial(root: Path, port: int, steps: int) -> int:
    """The exit code of the node that stays."""
    first = Node(root, "first", port, steps)
    time.sleep(2)  # so that the first one is the one that the others join
    second = Node(root, "second", port, steps)
    mirror = root / "mirror"
    wait_for(mirror, 50, first)
    for what in ("process", "node"):
        others, own = first.training(), second.training()
        for victim in [*own, *([psutil.Process(second.agent.pid)] if what == "node" else [])]:
            victim.kill()
        print(f"a {what} was killed; the other process ended after {seconds_until_ended(others):.1f} s", flush=True)
        wait_for(mirror, steps_in(mirror) + 50, first)
    second.agent.wait()
    ended = first.agent.wait()
    log = first.log.read_text()
    told = log.count("Another process of this run has ended")
    continued = " and ".join(re.findall(r"up to step (\d+)", log))
    print(f"{told} sentences; continued from steps {continued}; exit code {ended} after step {steps_in(mirror)}")
    return ended


if __name__ == "__main__":
    main()
