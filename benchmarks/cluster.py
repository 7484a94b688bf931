"""Does a batch on a cluster survive kills, and how much time does the cluster cost?

    python benchmarks/cluster.py kills [--images 2000] [--workers 3] [--kills 8] [--restarts 3] [--seed 0]
    python benchmarks/cluster.py overhead [--images 24] [--megapixels 1] [--rounds 3] [--model base-x4:int8] [--kind png]
    python benchmarks/cluster.py shared [--megapixels 8] [--rounds 3] [--model base-x4]
    python benchmarks/cluster.py parts
    python benchmarks/cluster.py driver
    python benchmarks/cluster.py work-out --processor-seconds S --mb-in MB --mb-out MB [--cores 16]

The first command starts a local Ray cluster and upscales a folder of small images on it. Workers and the driver are killed at
random; the driver is started again until it has ended by itself. Every result must be there once, recorded once, and equal to
that of one machine. The second command alternates between one process and one worker on the same cores, and prints the
ratio of their times per image, start not included, and of the processor time of their images. The third upscales one large
image on one worker and on two, each with one core. The fourth measures networks and encoders for themselves, the fifth the
driver with workers that do nothing, and the last works out what a million images of 12 megapixels take on 1, 10 and 100 nodes.
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
    """The address of a Ray cluster on this machine. Its workers are as urgent as other processes; Ray would let them wait."""
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112, as Ray spells it
    ray.init(
        "local",
        num_cpus=cpus,
        include_dashboard=False,
        object_store_memory=100_000_000,
        log_to_driver=False,
        logging_level="error",
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


def overhead(
    address: str, scratch: Path, *, images: int, megapixels: float, rounds: int, model: str, kind: str
) -> dict[str, float]:
    """Median ratios of the cluster to one process: time and processor time per image; and what a megapixel takes."""
    source = scratch / "in"
    source.mkdir()
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    photos = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*.png"))]
    for number in range(images):
        photo = photos[number % len(photos)].resize((round(height * 1.5), height), Image.Resampling.BICUBIC)
        photo.transpose(Image.Transpose(number % 7)).save(source / f"{number:03d}.{kind}", quality=95)
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
    ratios = {
        name: statistics.median(mine / other for mine, other in zip(each["cluster"], each["alone"], strict=True))
        for name, each in {"time": seconds, "processor time": work}.items()
    }
    results = [path.stat().st_size for path in (scratch / "alone0").iterdir()]
    sources = [path.stat().st_size for path in source.iterdir()]
    return ratios | {
        "processor seconds": statistics.median(work["alone"]) / (images - 1 - FILLED) / megapixels,
        "bytes in": statistics.mean(sources) / megapixels,
        "bytes out": statistics.mean(results) / megapixels,
    }


def _processor_time(driver: subprocess.Popen[str]) -> float:
    """Of the driver and of all workers."""
    times = [process.cpu_times() for process in [psutil.Process(driver.pid), *workers_below(psutil.Process())]]
    return sum(each.user + each.system for each in times)


def driver(images: int) -> float:
    """Large images a second that the driver hands out and records, if workers take no time for them."""
    from srcli.cluster import run
    from srcli.cluster.manifest import Manifest, Record
    from srcli.cluster.plan import BUNCH_BYTES
    from srcli.cluster.worker import Task
    from srcli.inference.batch import UpscaleOptions
    from srcli.inference.plan import Size
    from srcli.inference.tiling import plan_tiling

    class Idle:
        def __init__(self, options: UpscaleOptions, shared_pixels: int) -> None: ...

        def start(self, settings: str, folder: str) -> None: ...

        def run(self, tasks: list[Task], _others: list[object]) -> list[Record]:
            return [Record(task.source, task.target, bytes=1) for task in tasks]

    run.Worker = Idle  # type: ignore[assignment, misc]
    tasks = [Task(f"s3://bucket/in/{number}.jpg", f"s3://bucket/out/{number}_x4.jpg", BUNCH_BYTES) for number in range(images)]
    times = []
    with tempfile.TemporaryDirectory() as scratch:
        cluster = run.Cluster(UpscaleOptions(Size(scale=4), [], plan_tiling()), "auto")
        with cluster, Manifest(Path(scratch, "manifest.jsonl"), cluster.settings) as manifest:
            for _ in cluster.run(iter(tasks), manifest):
                times.append(time.perf_counter())
    return (images - 1) / (times[-1] - times[0])


def shared(megapixels: float, rounds: int, model: str) -> dict[int, list[float]]:
    """Seconds for one image on one worker and on two, each with one core, without their start."""
    from srcli.cluster.manifest import Manifest
    from srcli.cluster.plan import LARGE_BYTES
    from srcli.cluster.run import Cluster
    from srcli.cluster.worker import Task
    from srcli.inference.batch import UpscaleOptions
    from srcli.inference.plan import Size
    from srcli.inference.tiling import plan_tiling
    from srcli.models.registry import describe_model

    seconds: dict[int, list[float]] = {1: [], 2: []}
    side = round((megapixels * 1e6) ** 0.5)
    with tempfile.TemporaryDirectory() as scratch, Image.open(PHOTOS / "coffee.png") as photo:
        source = Path(scratch, "large.png")
        photo.convert("RGB").resize((side, side), Image.Resampling.BICUBIC).save(source)
        options = UpscaleOptions(Size(scale=4), [describe_model(model)], plan_tiling())
        for number in range(rounds):
            for workers in seconds:
                target = Path(scratch, f"{number}-{workers}.png")
                with (
                    local_cluster(workers) as address,
                    Cluster(options, address, workers=workers, shared_pixels=2**20) as cluster,
                    Manifest(Path(scratch, f"{number}-{workers}.jsonl"), "") as manifest,
                ):
                    (record,) = cluster.run([Task(str(source), str(target), LARGE_BYTES)], manifest)
                seconds[workers].append(record.seconds)
                print(f"{workers}: {record.seconds:.1f} s, {record.error or record.device}", file=sys.stderr)
                target.unlink()
    return seconds


def parts(megapixels: float, models: list[str]) -> Iterator[tuple[str, float]]:
    """Processor seconds for a megapixel at the scale of the models: of networks, and of encoders of their results."""
    from srcli.inference.backend import load_model
    from srcli.inference.upscale import upscale
    from srcli.io.image import Image as Pixels
    from srcli.io.write import write_image

    side = round((megapixels * 1e6) ** 0.5)
    with Image.open(PHOTOS / "coffee.png") as photo:
        image = Pixels(np.asarray(photo.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)))
    for model in models:
        backend = load_model(model, "cpu")
        backend(np.zeros((3, 64, 64), np.float32))
        began = time.process_time()
        large = upscale(backend, image)
        yield model, (time.process_time() - began) / megapixels
    with tempfile.TemporaryDirectory() as scratch:
        for ending in ("png", "tif", "jpg"):
            began = time.process_time()
            write_image(large, Path(scratch, f"large.{ending}"))
            yield ending, (time.process_time() - began) / megapixels


def work_out(
    *, images: float, megapixels: float, processor_seconds: float, mb_in: float, mb_out: float, cores: int, overhead: float
) -> None:
    """Print what a batch takes on 1, 10 and 100 nodes whose cores are always busy."""
    total = images * megapixels
    traffic = f"{total * mb_in / 1e6:.1f} TB in, {total * mb_out / 1e6:.1f} TB out"
    node_hours = total * processor_seconds * overhead / cores / 3600
    print(f"{images:,.0f} images of {megapixels:g} megapixels: {traffic},")
    print(f"{node_hours:,.0f} node-hours of {cores} cores")
    print("| nodes | time | images a second | read, MB/s | written, MB/s |")
    print("|---|---|---|---|---|")
    for nodes in (1, 10, 100):
        seconds = node_hours * 3600 / nodes
        rates = f"{images / seconds:.2f} | {total * mb_in / seconds:.1f} | {total * mb_out / seconds:.1f}"
        print(f"| {nodes} | {seconds / 3600:.0f} h | {rates} |")


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
    measuring.add_argument("--kind", default="png", help="png or jpg")
    sharing = commands.add_parser("shared")
    sharing.add_argument("--megapixels", type=float, default=8)
    sharing.add_argument("--rounds", type=int, default=3)
    sharing.add_argument("--model", default="base-x4")
    commands.add_parser("parts")
    commands.add_parser("driver")
    working = commands.add_parser("work-out")
    working.add_argument("--images", type=float, default=1e6)
    working.add_argument("--megapixels", type=float, default=12)
    for option in ("processor-seconds", "mb-in", "mb-out"):
        working.add_argument(f"--{option}", type=float, required=True, help="of a megapixel, from `overhead`")
    working.add_argument("--cores", type=int, default=16, help="of a node")
    working.add_argument("--overhead", type=float, default=1.0)
    options = vars(parser.parse_args())
    if options["command"] == "parts":
        for name, seconds in parts(1, ["tiny-x4:int8", "base-x4:int8"]):
            print(f"{name:<16} {seconds:6.2f} processor seconds a megapixel")
        return
    if options["command"] == "shared":
        del options["command"]
        seconds = shared(**options)
        ratio = statistics.median(two / one for one, two in zip(seconds[1], seconds[2], strict=True))
        what = f"{options['megapixels']:g} megapixels with {options['model']}"
        print(f"an image of {what}: two workers of one core take {ratio:.2f} times as long as one")
        return
    if options["command"] == "driver":
        with local_cluster(os.cpu_count() or 1):
            print(f"the driver hands out and records {driver(3000):.0f} large images a second")
        return
    if options["command"] == "work-out":
        del options["command"]
        work_out(**options)
        return
    with tempfile.TemporaryDirectory() as scratch:
        if options.pop("command") == "overhead":
            with local_cluster(os.cpu_count() or 1) as address:
                ratios = overhead(address, Path(scratch), **options)
            what = f"{options['images']} images of {options['megapixels']:g} megapixels, {options['model']}"
            print(f"{what}, {os.cpu_count()} cores")
            times = f"{ratios['time']:.3f} times as long as one process, and {ratios['processor time']:.3f} times the"
            print(f"a worker takes {times}")
            print(f"processor time; a megapixel takes one process {ratios['processor seconds']:.2f} processor seconds,")
            print(f"and becomes {ratios['bytes out'] / 1e6:.2f} MB from {ratios['bytes in'] / 1e6:.2f} MB")
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
