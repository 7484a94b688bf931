"""Fixtures: small images and small networks from fixed seeds."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from srcli.cli import main
from srcli.config import CompactConfig
from srcli.core.networks import build_generator
from srcli.io.image import Image
from srcli.io.write import write_image
from srcli.models.checkpoint import save_model

EXAMPLES = Path(__file__).parents[1] / "examples"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a cache folder for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _name: tmp_path / "cache")


@pytest.fixture
def pixels() -> Callable[..., np.ndarray]:
    """A smooth image with an edge, H x W x C, of any type."""

    def make(height: int, width: int, channels: int = 3, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
        random = np.random.default_rng(seed)
        coarse = torch.from_numpy(random.random((1, channels, height // 8 + 2, width // 8 + 2)))
        smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0].numpy()
        smooth[:, height // 2 :, : width // 3] *= 0.3
        return np.rint(smooth.transpose(1, 2, 0) * np.iinfo(dtype).max).astype(dtype)

    return make


@pytest.fixture
def photo(tmp_path: Path, pixels: Callable[..., np.ndarray]) -> Path:
    """A 40x30 PNG."""
    path = tmp_path / "photo.png"
    write_image(Image(pixels(30, 40)), path)
    return path


@pytest.fixture
def photos(tmp_path: Path, pixels: Callable[..., np.ndarray]) -> Path:
    """A folder of three PNGs of 96x80, one of them in a subfolder."""
    folder = tmp_path / "photos"
    for number, name in enumerate(("one.png", "two.png", "below/three.png")):
        write_image(Image(pixels(80, 96, seed=number)), folder / name)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model file: a small random compact x2 network, whose output differs visibly from bilinear upsampling."""
    return make_model(tmp_path / "tiny.safetensors", scale=2)


def make_model(path: Path, *, scale: int) -> Path:
    config = CompactConfig(scale=scale, channels=8, blocks=2)
    torch.manual_seed(0)
    generator = build_generator(config)
    torch.nn.init.normal_(generator.tail.weight, std=0.05)
    save_model(path, generator, config, about={})
    return path


def repeated(lr: np.ndarray) -> np.ndarray:
    """Each pixel twice, in rows and columns. C x H x W."""
    return lr.repeat(2, axis=1).repeat(2, axis=2)


@dataclass
class FakeBackend:
    """A backend whose network is a function of lr, C x H x W."""

    network: Callable[[np.ndarray], np.ndarray] = repeated
    scale: int = 2
    halo: int = 0
    tile_multiple: int = 1
    bytes_per_pixel: int = 1
    device_free_bytes: int | None = None
    description: str = "here"

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        return self.network(lr)


@dataclass(frozen=True)
class CommandResult:
    """The result of a command."""

    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def srcli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., CommandResult]:
    """Run a command in this process."""

    def run(*words: object) -> CommandResult:
        monkeypatch.setattr(sys, "argv", ["srcli", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capfd.readouterr()
        return CommandResult(int(end.value.code or 0), out, err)

    return run


needs_browser = pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")


def dom_of(page: Path) -> str:
    """The DOM of a page in a browser of a phone's width, after its scripts."""
    quiet = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", *quiet, "--disable-sync", "--window-size=500,900"]
    words = [f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
    return subprocess.run([*command, *words], check=True, capture_output=True, text=True, timeout=120).stdout
