"""Does a batch survive being killed? Good and damaged images, SIGKILL while it runs, and restarts with --skip-existing.

    python benchmarks/killed_batch.py [--images 500] [--broken 20] [--kills 5] [--seed 0]

There are damaged files of every kind: truncated at random bytes in every format, empty, text and noise with an image's name, a
decompression bomb, links to nothing and to themselves (as root ignores permissions), a pipe, a file without permission, a
folder with an image's name. At the end, every good image must have a result that equals that of an uninterrupted run, every
damaged one an error message, the exit code must be 1, and there may be no other file. Exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

ENDINGS = (".png", ".jpg", ".webp", ".tif", ".avif")


def make_images(folder: Path, count: int, seed: int) -> list[Path]:
    """Small smooth images in all formats, some in subfolders, some rotated."""
    numbers = np.random.default_rng(seed)
    made = []
    for number in range(count):
        ending = ENDINGS[number % len(ENDINGS)]
        path = folder / ("" if number % 3 else f"below {number % 7}") / f"image {number:04}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = numbers.integers(20, 60, 2)
        shades = numbers.integers(-9, 10, (height, width, 3)).cumsum(axis=0).cumsum(axis=1) % 256
        exif = Image.Exif()
        exif[0x0112] = int(numbers.integers(1, 9)) if ending == ".jpg" else 1
        Image.fromarray(shades.astype(np.uint8)).save(path, exif=exif)
        made.append(path)
    return made


def bomb() -> bytes:
    """A PNG of a few bytes with a size of 60000 x 60000."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def make_broken(folder: Path, count: int, good: list[Path], seed: int) -> list[Path]:
    """So many damaged files, of each kind in turn."""
    choose = random.Random(seed)

    def cut(path: Path) -> None:
        source = next(one for one in good[choose.randrange(len(good)) :] + good if one.suffix == path.suffix)
        content = source.read_bytes()
        path.write_bytes(content[: choose.randrange(1, len(content) - 13)])

    def forbidden(path: Path) -> None:
        if os.geteuid() == 0:  # root ignores permissions
            path.symlink_to(path.name)
        else:
            path.write_bytes(good[0].read_bytes())
            path.chmod(0)

    kinds: list[tuple[str, Callable[[Path], object]]] = [
        *((ending, cut) for ending in ENDINGS),
        (".jpg", lambda path: path.write_bytes(b"")),
        (".png", lambda path: path.write_text("a letter, not an image")),
        (".png", lambda path: path.write_bytes(bomb())),
        (".jpg", forbidden),
        (".png", lambda path: path.mkdir()),
        (".webp", lambda path: path.write_bytes(choose.randbytes(3000))),
        (".tif", lambda path: path.symlink_to("nowhere.tif")),
        (".png", lambda path: os.mkfifo(path)),
    ]
    made = []
    for number in range(count):
        ending, make = kinds[number % len(kinds)]
        path = folder / f"broken {number:02}{ending}"
        make(path)
        made.append(path)
    return made


def start(source: Path, target: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "srcli", "upscale", str(source), "-r", "-o", str(target), "--scale", "2", "--json", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def files_below(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()}


def trial(scratch: Path, *, images: int, broken: int, kills: int, seed: int, words: tuple[str, ...] = ()) -> list[str]:
    """Everything that is wrong at the end. The first `broken` of the images are damaged."""
    source, target = scratch / "in", scratch / "out"
    good = make_images(source, images - broken, seed)
    bad = make_broken(source, broken, good, seed)
    given = files_below(source)
    wait = random.Random(seed)
    done = 0
    for number in range(kills):
        process = start(source, target, "--skip-existing", *words)
        # while it works: some results after the point that the last run reached
        goal = done + max(1, (len(good) - done) // (kills - number + 1))
        while process.poll() is None and (done := len(list(target.rglob("*_x2.*"))) if target.exists() else 0) < goal:
            time.sleep(0.002)
        time.sleep(wait.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        left = sum(1 for path in target.rglob(".*") if path.is_file())
        print(f"killed after {done} of {len(good)} results, {left} hidden files left", file=sys.stderr)
    final = start(source, target, "--skip-existing", *words)
    out, err = final.communicate()
    records = {record["input"]: record for record in map(json.loads, out.splitlines())}

    wrong = []
    if final.returncode != 1:
        wrong.append(f"exit code {final.returncode}")
    if "Traceback" in err:
        wrong.append(err)
    expected = {path.relative_to(source).with_name(f"{path.stem}_x2{path.suffix}") for path in good}
    if (found := files_below(target)) != expected:
        wrong.append(f"files too many {sorted(found - expected)}, missing {sorted(expected - found)}")
    if files_below(source) != given:
        wrong.append("the input folder has changed")
    failed = {name for name, record in records.items() if record["error"]}
    if failed != set(map(str, bad)):
        wrong.append(f"errors for {sorted(failed ^ set(map(str, bad)))} or not")
    lines = [line for line in err.splitlines() if "broken" in line]
    if len(lines) != len(bad) or any(sum(str(path) in line for line in lines) != 1 for path in bad):
        wrong.append("\n".join(["not a sentence for each broken image:", *lines]))
    for path in bad:  # so that the batch can be run without interruption
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    whole = start(source, scratch / "whole", *words)
    whole.communicate()
    for path in sorted(expected & found):
        with Image.open(target / path) as one, Image.open(scratch / "whole" / path) as other:
            if one.size != other.size or np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() > 0:
                wrong.append(f"{path} differs from that of a run that nobody killed")
    return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--broken", type=int, default=20)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        wrong = trial(Path(folder), images=options.images, broken=options.broken, kills=options.kills, seed=options.seed)
    print("\n".join(wrong) or f"{options.images - options.broken} right results, {options.broken} named errors, exit code 1")
    print(f"{time.perf_counter() - begin:.0f} s")
    sys.exit(bool(wrong))
