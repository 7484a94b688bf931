"""Does a batch on a cluster survive kills, and how much time does the cluster cost?

    python benchmarks/cluster.py kills [--images 2000] [--workers 3] [--kills 8] [--restarts 3] [--seed 0]
    python benchmarks/cluster.py overhead [--images 24] [--megapixels 1] [--rounds 3] [--model base-x4:int8]

The first command starts a local Ray cluster and upscales a folder of small images on it. Workers and the driver are killed at
random; the driver is started again until it has ended by itself. Every result must be there once, recorded once, and equal to
that of one machine. The second command alternates between one process and one worker on the same cores, and prints the
ratio of their times per image, start not included, and of the processor time of their images.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import ray
from PIL import Image

from srcli.errors import counted

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"
FILLED = 5
"""Results after which all slots of a worker are in use."""


@contextmanager
def local_cluster(cpus: int) -> Iterator[str]:
    """The address of a Ray cluster on this machine."""
    ray.init(
        num_cpus=cpus, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False, logging_level="error"
    )
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        ray.shutdown()


def start(source: Path, target: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "srcli", "upscale", str(source), "-o", str(target), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def workers_below(process: psutil.Process) -> list[psutil.Process]:
    """Processes of srcli's workers that a cluster has started which this process has started."""
    found = []
    for child in process.children(recursive=True):
        try:
            if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::Worker"):
                found.append(child)
        except psutil.Error:  # it has just ended
            continue
    return found


def kills(
    address: str, scratch: Path, *, images: int, workers: int, kills: int, restarts: int, seed: int, words: list[str]
) -> list[str]:
    """Everything that is wrong at the end."""
    chance = random.Random(seed)
    source, target, alone = scratch / "in", scratch / "out", scratch / "alone"
    source.mkdir()
    for number in range(images):
        pixels = np.random.default_rng(seed + number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        size = chance.randint(16, 64), chance.randint(16, 64)
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(
            source / f"{number:05d}.{chance.choice(('png', 'jpg'))}"
        )
    manifest = target / "manifest.jsonl"
    on_cluster = [*words, "--cluster", address, "--workers", str(workers)]
    victims = ["worker"] * kills + ["driver"] * restarts
    chance.shuffle(victims)
    printed: Counter[str] = Counter()

    def results() -> int:
        names = [path.name for path in target.iterdir()] if target.exists() else []
        return sum(not name.startswith(".") and name != manifest.name for name in names)

    driver = start(source, target, *on_cluster)
    for number, victim in enumerate(victims, start=1):
        goal = images * number // (len(victims) + 1)
        while driver.poll() is None and (results() < goal or not workers_below(psutil.Process())):
            time.sleep(0.02)
        time.sleep(chance.random() * 0.2)
        if victim == "worker":
            chosen = workers_below(psutil.Process())
            if chosen:
                chance.choice(chosen).kill()
        else:
            driver.kill()
            printed.update(driver.communicate()[0].splitlines())
            driver = start(source, target, *on_cluster)
        print(f"killed a {victim} after {results()} of {images} results", file=sys.stderr)
    out, err = driver.communicate()
    printed.update(out.splitlines())
    if driver.returncode == 1 and "set aside" in err:  # images that were being upscaled, alone, at two kills
        driver = start(source, target, *on_cluster)
        out, err = driver.communicate()
        printed.update(out.splitlines())

    wrong = [f"exit code {driver.returncode}: {err}"] if driver.returncode else []
    start(source, alone, *words).communicate()
    mine, theirs = (
        {path.name: path.read_bytes() for path in folder.iterdir() if path != manifest} for folder in (target, alone)
    )
    if mine.keys() != theirs.keys():
        wrong.append(f"too many {sorted(mine.keys() - theirs.keys())}, missing {sorted(theirs.keys() - mine.keys())}")
    wrong += [f"{name} differs from that of one machine" for name in mine.keys() & theirs.keys() if mine[name] != theirs[name]]
    done: Counter[str] = Counter()
    for record in map(json.loads, manifest.read_text().splitlines()):
        if "output" in record and record["error"] is None and not record["skipped"]:
            name = Path(record["output"]).name
            done[name] += 1
            if record["sha256"] != hashlib.sha256(mine.get(name, b"")).hexdigest():
                wrong.append(f"{name} is not the file in the manifest")
    wrong += [f"{name} is in the manifest {done[name]} times" for name in theirs if done[name] != 1]
    wrong += [f"{line} was printed {count} times" for line, count in printed.items() if count > 1]
    return wrong


def overhead(address: str, scratch: Path, *, images: int, megapixels: float, rounds: int, model: str) -> dict[str, float]:
    """Median ratios of the cluster to one process: time and processor time per image."""
    source = scratch / "in"
    source.mkdir()
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    photos = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*.png"))]
    for number in range(images):
        photo = photos[number % len(photos)].resize((round(height * 1.5), height), Image.Resampling.BICUBIC)
        photo.transpose(Image.Transpose(number % 7)).save(source / f"{number:03d}.png")
    seconds: dict[str, list[float]] = {"alone": [], "cluster": []}
    work: dict[str, list[float]] = {"alone": [], "cluster": []}
    for number in range(rounds):
        for name in seconds:
            words = ["-m", model, "--device", "cpu", *(["--cluster", address, "--workers", "1"] if name == "cluster" else [])]
            driver = start(source, scratch / f"{name}{number}", *words)
            times, before = [], 0.0
            for _ in driver.stdout or ():
                times.append(time.perf_counter())
                if len(times) == FILLED:
                    before = _processor_time(driver)
                if len(times) == images - 1:  # the processes still exist
                    work[name].append(_processor_time(driver) - before)
            if driver.wait():
                raise SystemExit(driver.stderr.read() if driver.stderr else "failed")
            seconds[name].append((times[-1] - times[FILLED - 1]) / (images - FILLED))
    return {
        "time": statistics.median(mine / other for mine, other in zip(seconds["cluster"], seconds["alone"], strict=True)),
        "processor time": statistics.median(mine / other for mine, other in zip(work["cluster"], work["alone"], strict=True)),
        "seconds of one process": statistics.median(seconds["alone"]),
    }


def _processor_time(driver: subprocess.Popen[str]) -> float:
    """Of the driver and of all workers."""
    times = [process.cpu_times() for process in [psutil.Process(driver.pid), *workers_below(psutil.Process())]]
    return sum(each.user + each.system for each in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    killing = commands.add_parser("kills")
    for option, default in {"images": 2000, "workers": 3, "kills": 8, "restarts": 3, "seed": 0}.items():
        killing.add_argument(f"--{option}", type=int, default=default)
    measuring = commands.add_parser("overhead")
    measuring.add_argument("--images", type=int, default=24)
    measuring.add_argument("--megapixels", type=float, default=1)
    measuring.add_argument("--rounds", type=int, default=3)
    measuring.add_argument("--model", default="base-x4:int8")
    options = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as scratch:
        if options.pop("command") == "overhead":
            with local_cluster(os.cpu_count() or 1) as address:
                ratios = overhead(address, Path(scratch), **options)
            what = f"{options['images']} images of {options['megapixels']:g} megapixels, {options['model']}"
            print(f"{what}, {os.cpu_count()} cores")
            print(f"one process takes {ratios['seconds of one process']:.2f} s an image; a cluster's worker takes")
            print(f"{ratios['time']:.3f} times as long and {ratios['processor time']:.3f} times the processor time")
            return
        with local_cluster(options["workers"]) as address:
            began = time.perf_counter()
            wrong = kills(address, Path(scratch), **options, words=["-m", "tiny-x4", "--device", "cpu", "--scale", "2"])
    ended = f"{counted(options['kills'], 'worker')} and {counted(options['restarts'], 'driver')}"
    print(
        "\n".join(wrong)
        or f"{options['images']} results, each once and equal to that of one machine, though {ended} were killed"
    )
    print(f"{time.perf_counter() - began:.0f} s")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
