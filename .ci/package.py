"""Build the wheel, install it in clean environments, and run a command that needs what each extra adds.

    python .ci/package.py [EXTRA ...]

An environment for an extra sees the packages of the basic one and none of another extra, so a dependency that is missing in
pyproject.toml is noticed. Everything runs outside the checkout, so a file that is missing in the wheel is noticed, too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PHOTO = ROOT / "examples" / "small" / "astronaut.png"
PHOTOS = ROOT / "examples" / "photos"

BASIC = (
    ("srcli", "--version"),
    ("srcli", "models"),
    ("srcli", "upscale", PHOTO, "-o", "basic.png"),
    ("srcli", "compare-loss", PHOTOS / "astronaut.png", "basic.png", "--html", "page.html"),
    ("srcli", "train", PHOTOS, "-o", "run", "--steps", "2", "--batch", "1", "--device", "cpu", "--loss", "feature=1"),
    ("srcli", "upscale", PHOTO, "-m", "run/model.safetensors", "-o", "trained.png"),
)
"""Commands of the package without extras."""

THIRD_PARTY = """
import sys
import torch
from torch import nn
network = nn.Module()
network.body = nn.ModuleList([nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 8, 3), nn.PReLU(8), nn.Conv2d(8, 12, 3)])
torch.save(network.state_dict(), "compact.pth")
"""
"""Writes the weights of a small SRVGGNetCompact x2."""

EXTRAS = {
    "tensorboard": (("srcli", "train", PHOTOS, "-o", "logged", "--steps", "2", "--batch", "1", "--log", "tensorboard"),),
    "onnx": (("srcli", "export", "tiny-x4"),),
    "models": (("python", "-c", THIRD_PARTY), ("srcli", "upscale", PHOTO, "-m", "compact.pth", "-o", "compact.png")),
    "metrics": (("python", "-c", "import importlib.metadata as m; m.version('torchmetrics'), m.version('torchvision')"),),
    "torchvision": (("srcli", "upscale", PHOTO, "-o", "beside.png", "--device", "cpu", "-m", "base-x2"),),
    "formats": (
        ("srcli", "upscale", PHOTO, "-o", "photo.jxl"),
        ("srcli", "upscale", "photo.jxl", "-s", "2", "-o", "again.png"),
    ),
    "shards": (
        ("python", "-c", "import tarfile, sys; t = tarfile.open('0.tar', 'w'); t.add(sys.argv[1], 'a.png'); t.close()", PHOTO),
        ("srcli", "train", "{0..0}.tar", "-o", "sharded", "--steps", "1", "--batch", "1", "--patch", "64"),
    ),
    "benchmarks": (("python", "-c", "import IPython, pynvml, torchsummary"),),
    "docs": (("python", "-m", "mkdocs", "--version"),),
}
"""Commands by extra. `dev` is missing, as the test suite needs all of it."""


def main(extras: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.rmtree(ROOT / "build", ignore_errors=True)  # setuptools would pack old files in it, too
        run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT, inside=folder)
        wheel = next(folder.glob("srcli-*.whl"))
        basic = make_environment(folder / "basic", f"{wheel}")
        run_all(basic, BASIC, folder)
        for extra in extras or EXTRAS:
            python = make_environment(folder / extra, f"{wheel}[{extra}]", above=basic)
            run_all(python, EXTRAS[extra], folder)
    print("The wheel works in clean environments, with each extra.")


def make_environment(folder: Path, requirement: str, above: Path | None = None) -> Path:
    """Python of a new environment with the package. above: Python of another one, whose packages are visible as well."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if above:
        (packages_of(python) / "basic.pth").write_text(f"{packages_of(above)}\n")
    constraints = ROOT / "constraints.txt"
    run(python, "-m", "pip", "install", "--quiet", "--constraint", constraints, requirement, inside=folder)
    return python


def packages_of(python: Path) -> Path:
    command = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


def run_all(python: Path, commands: tuple[tuple[str | Path, ...], ...], folder: Path) -> None:
    for program, *words in commands:
        run(python, *(["-m", "srcli"] if program == "srcli" else []), *words, inside=folder)


def run(*command: str | Path, inside: Path) -> None:
    words = [str(word) for word in command]
    print("+", *(word if "\n" not in word else "..." for word in words), flush=True)
    # the checkout must not be importable
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, check=False, cwd=inside, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}This command failed with exit code {done.returncode}.")


if __name__ == "__main__":
    main(sys.argv[1:])
