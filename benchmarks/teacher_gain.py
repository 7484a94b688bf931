"""What does a network gain from a teacher, and from photographs at half their size that only the teacher labels?

    python benchmarks/teacher_gain.py PHOTOS TEACHER BENCH WORK [--steps 3000] [--photos N] [--arms ARM ...] [-- OPTION ...]

Trains the 48 x 9 `compact` network three times with the same seed, so that all see the same crops: on the photographs alone
(truth), with half of the target from the teacher (teacher), and with half of the crops from photographs at half their size as
well (half). The runs take turns of ten minutes. Prints PSNR on luma on each folder in BENCH, such as Set5. WORK keeps runs and
labels: the same command continues where it was interrupted. --photos trains on N of the photographs only. Words after `--` go
to `srcli train`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from quality import truth

from srcli.core.degradation import bicubic, rounded
from srcli.core.metrics import on_luma, psnr
from srcli.io.discover import find_images
from srcli.models.checkpoint import load_generator, read_torch

SCALE = 4
ARMS = {
    "truth": [],
    "teacher": ["--teacher", "TEACHER"],
    "half": ["--teacher", "TEACHER", "--unlabeled", "half"],
}
SIZE = ["--generator", "compact", "--channels", "48", "--blocks", "9", "--scale", str(SCALE), "--batch", "16", "--patch", "192"]


def chosen(photos: Path, work: Path, count: int | None) -> Path:
    """A folder with links to some of the photographs."""
    if count is None:
        return photos
    folder = work / f"photos-{count}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = find_images(photos)
    for path in paths[:: max(1, len(paths) // count)][:count]:
        link = folder / path.name
        if not link.exists():
            link.symlink_to(path.resolve())
    return folder


def steps_of(run: Path) -> int:
    return int(read_torch(run / "checkpoint.pt")["steps"]) if (run / "checkpoint.pt").exists() else 0


@torch.no_grad()
def score(model: Path, folder: Path) -> float:
    generator = load_generator(model).eval()
    scores = []
    for path in find_images(folder):
        hr = truth(path, SCALE)
        scores.append(psnr(*on_luma(rounded(generator(bicubic(hr, SCALE))), hr, border=SCALE)).item())
    return sum(scores) / len(scores)


def main() -> None:
    words = sys.argv[1:]
    own, rest = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("photos", "teacher", "bench", "work"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--photos", type=int, dest="count")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    options = parser.parse_args(own)
    photos = chosen(options.photos, options.work, options.count)
    common = [*SIZE, "--steps", str(options.steps), "--cache", str(options.work / "cache"), "--max-time", "10m", *rest]
    runs = {arm: options.work / f"{arm}-{options.steps}" for arm in options.arms}
    while unfinished := {arm: run for arm, run in runs.items() if steps_of(run) < options.steps}:
        for arm, run in unfinished.items():
            special = [str(options.teacher) if word == "TEACHER" else word for word in ARMS[arm]]
            command = [sys.executable, "-m", "srcli", "train", str(photos), "-o", str(run), *common, *special]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    sets = sorted(path for path in options.bench.iterdir() if path.is_dir())
    print(f"PSNR (dB) after {options.steps} steps, {len(find_images(photos))} photographs")
    print(f"{'':<10}" + "".join(f"{folder.name:>10}" for folder in sets))
    for arm, run in runs.items():
        print(f"{arm:<10}" + "".join(f"{score(run / 'model.safetensors', folder):10.2f}" for folder in sets))


if __name__ == "__main__":
    main()
